#!/bin/sh
# HAProxy: HTTP/1.1 or HTTP/2 in the clear, both over TLS. Debian: haproxy.
# $1 directory with cert.pem and key.pem, $2 port, $3 http1|h2c|tls. Exits with 77 where there is no HAProxy.
set -eu
PATH=$PATH:/usr/sbin
command -v haproxy >/dev/null || exit 77
cat "$1/cert.pem" "$1/key.pem" >"$1/both.pem"
head -c 10000 /dev/zero | tr '\0' x >"$1/big"
case $3 in
    tls) how="ssl crt $1/both.pem alpn h2,http/1.1" ;;
    h2c) how="proto h2" ;;
    *) how="" ;;
esac
cat >"$1/haproxy.cfg" <<CONFIG
global
    maxconn 256
defaults
    mode http
    timeout client 10s
    timeout server 10s
    timeout connect 10s
frontend hello
    bind 127.0.0.1:$2 $how
    http-request return status 200 content-type text/plain file $1/big if { path /big }
    http-request return status 200 content-type text/plain string hello
CONFIG
exec haproxy -db -q -f "$1/haproxy.cfg"
