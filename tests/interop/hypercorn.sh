#!/bin/sh
# Hypercorn, from PyPI: both versions, in the clear and over TLS.
# $1 directory with cert.pem and key.pem, $2 port, $3 http1|h2c|tls. Exits with 77 where there is no Hypercorn.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
hypercorn=$here/../../target/interop/bin/hypercorn
[ -x "$hypercorn" ] || hypercorn=$(command -v hypercorn) || exit 77
tls=""
[ "$3" = tls ] && tls="--certfile $1/cert.pem --keyfile $1/key.pem"
cd "$here"
export PYTHONDONTWRITEBYTECODE=1
exec "$hypercorn" --workers 0 --bind "127.0.0.1:$2" $tls --error-logfile "$1/error.log" hello:app
