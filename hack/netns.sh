#!/usr/bin/env bash
# Makes sure that the tests with transparent capture can run here, and says
# how: they redirect traffic with iptables inside network namespaces.
set -euo pipefail

say() { echo "capture: $*" >&2; }
# Debian keeps these in sbin, which is not on every user's PATH.
PATH=$PATH:/usr/sbin:/sbin

missing=()
command -v ip >/dev/null || missing+=(iproute2)
command -v iptables >/dev/null || missing+=(iptables)
[ "$(id -u)" = 0 ] || command -v newuidmap >/dev/null || missing+=(uidmap)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]} with apt-get"
    apt-get update -qq </dev/null >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" </dev/null >/dev/null
  else
    say "needs ${missing[*]}; install it (Debian: sudo apt-get install ${missing[*]}) and run this again"
    exit 1
  fi
fi

if [ "$(id -u)" = 0 ]; then
  unshare -n true 2>/dev/null ||
    { say "this machine lets root make no network namespace (a container without CAP_SYS_ADMIN?); run where it may"; exit 1; }
  say "as root, in network namespaces of its own"
elif unshare --user --map-root-user --map-auto -- unshare -n true 2>/dev/null; then
  say "not root: inside a user namespace of its own"
else
  say "not root, and this kernel lets users make no user namespace; run as root (sudo make test), or allow it:"
  say "  sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un) (if /etc/subuid does not name you)"
  say "  sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0 kernel.unprivileged_userns_clone=1 (those that exist)"
  exit 1
fi
