#!/bin/sh
# nginx: HTTP/1.1 in the clear, both versions over TLS, and no connection serves more than 50 requests. Debian: nginx-light.
# $1 directory with cert.pem and key.pem, $2 port, $3 http1|tls. Exits with 77 where there is no nginx.
set -eu
PATH=$PATH:/usr/sbin
command -v nginx >/dev/null || exit 77
listen="listen 127.0.0.1:$2;"
[ "$3" = tls ] && listen="listen 127.0.0.1:$2 ssl http2; ssl_certificate $1/cert.pem; ssl_certificate_key $1/key.pem;"
head -c 1000000 /dev/zero | tr '\0' x >"$1/big"
cat >"$1/nginx.conf" <<CONFIG
daemon off; master_process off; pid $1/pid; error_log $1/error.log;
events { worker_connections 1024; }
http {
    access_log off; keepalive_requests 50;
    client_body_temp_path $1/body; proxy_temp_path $1/proxy; fastcgi_temp_path $1/fastcgi;
    uwsgi_temp_path $1/uwsgi; scgi_temp_path $1/scgi;
    server { $listen root $1; location = / { return 200 hello; } }
}
CONFIG
exec nginx -c "$1/nginx.conf" -p "$1" 2>/dev/null
