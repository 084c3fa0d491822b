#!/bin/sh
# An authority and a server's certificate for 127.0.0.1, valid for a hundred years; for the tests alone.
set -eu
cd "$(dirname "$0")"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 36500 \
    -subj '/CN=authority of the tests' -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=keyCertSign'
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj '/CN=server'
printf 'subjectAltName=IP:127.0.0.1\n' > names
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -days 36500 -out server.crt -extfile names
rm -f ca.key server.csr names ca.srl
