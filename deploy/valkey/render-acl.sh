#!/bin/sh
# Print the ACL file for Valkey: users.acl beside this script with the passwords' digests in it, and without comments.
#
#   VALKEY_SERVER_PASSWORD   of the user drawdown, the one in DRAWDOWN_VALKEY_URL
#   VALKEY_ADMIN_PASSWORD    of the user admin
set -eu

digest() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }

server=$(digest "${VALKEY_SERVER_PASSWORD:?is not set}")
admin=$(digest "${VALKEY_ADMIN_PASSWORD:?is not set}")
sed -e '/^#/d' -e '/^$/d' -e "s/@SERVER_PASSWORD_SHA256@/$server/" -e "s/@ADMIN_PASSWORD_SHA256@/$admin/" \
  "$(dirname "$0")/users.acl"
