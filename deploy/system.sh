#!/usr/bin/env bash
# Installs the Debian packages that the tests need, those that are missing only. Without root and without sudo it says
# what is missing and goes on: the tests that need it then skip with the reason (with CI=true they fail).
set -euo pipefail

missing=()
need() { # need PACKAGE COMMAND…: any of the commands will do
    local package=$1 command; shift
    for command in "$@"; do
        if command -v "$command" >/dev/null 2>&1 || compgen -G "$command" >/dev/null; then return; fi
    done
    missing+=("$package")
}
need openjdk-17-jre-headless java
need maven mvn
need postgresql '/usr/lib/postgresql/*/bin/initdb'
need chromium chromium
need prometheus promtool
need libssl-dev /usr/include/openssl/evp.h
need g++ c++ g++ clang++
# Only x86-64 has it; the network plug-in does without where it is missing.
[ "$(uname -m)" != x86_64 ] || need libipsec-mb-dev /usr/include/intel-ipsec-mb.h

[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ]; then as_root=(); elif sudo -n true 2>/dev/null; then as_root=(sudo -n); else
    echo "not installed, and neither root nor sudo is at hand: ${missing[*]}" >&2
    exit 0
fi
command -v apt-get >/dev/null || { echo "not a Debian system; install yourself: ${missing[*]}" >&2; exit 0; }
echo "installing ${missing[*]}"
# No server is to start by itself: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
    "${as_root[@]}" chmod 755 $policy
    trap '"${as_root[@]}" rm -f $policy' EXIT
fi
"${as_root[@]}" apt-get update -qq
for package in "${missing[@]}"; do
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
        if [ "$package" = libipsec-mb-dev ]; then echo "$package: not to be had, and not needed"; else exit 1; fi
done
