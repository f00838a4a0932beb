#!/bin/sh
# The command of Valkey's container: make its users of the passwords in the environment, then become Valkey.
set -eu

umask 077
here=$(dirname "$0")
"$here/render-acl.sh" > /run/valkey/users.acl
unset VALKEY_SERVER_PASSWORD VALKEY_ADMIN_PASSWORD
exec valkey-server "$here/valkey.conf" "$@"
