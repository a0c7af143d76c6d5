#!/bin/sh
# nghttpd: HTTP/2 alone, by prior knowledge or over TLS. Debian: nghttp2-server.
# $1 directory with cert.pem and key.pem, $2 port, $3 h2c|tls. Exits with 77 where there is no nghttpd.
set -eu
command -v nghttpd >/dev/null || exit 77
mkdir -p "$1/www"
printf hello >"$1/www/index.html"
head -c 1000000 /dev/zero | tr '\0' x >"$1/www/big"
if [ "$3" = tls ]; then
    exec nghttpd -a 127.0.0.1 -d "$1/www" "$2" "$1/key.pem" "$1/cert.pem"
fi
exec nghttpd -a 127.0.0.1 -d "$1/www" --no-tls "$2"
