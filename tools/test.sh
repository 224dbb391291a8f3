#!/usr/bin/env bash
# Every test, embedded and real. What the tests need and this machine lacks is fetched with apt on
# Debian or Ubuntu as root (NO_APT=1 skips that): Chromium, and the real engines, of which nothing
# is started here: the tests start private ones on loopback. Without them the tests that need them
# are skipped with their reason, and with CI set they fail instead.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
skipped=()
need() { # program, package, what is skipped without it
  command -v "$1" >/dev/null && return
  packages+=("$2")
  skipped+=("$3")
}
PATH="$PATH:/usr/sbin:/sbin"
need chromium chromium "tests/browser"
need rabbitmq-server rabbitmq-server "tests on RabbitMQ"
need mariadbd mariadb-server "tests on MariaDB"
need redis-server redis-server "tests on Redis"
need amqp-publish amqp-tools "the example with amqp-publish"
if [ ! -e /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc ]; then
  packages+=(fonts-noto-cjk)
  skipped+=("the page with Chinese glyphs")
fi

policy=/usr/sbin/policy-rc.d
own_policy() {
  grep -qs "limner: no services" "$policy"
}
take_policy_back() {
  if own_policy; then rm -f "$policy"; fi
  if [ -e "$policy.before-limner" ]; then mv "$policy.before-limner" "$policy"; fi
}
install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  # Packages of servers start them; this policy, for the time of the call, keeps them from it.
  trap take_policy_back EXIT
  if [ -e "$policy" ] && ! own_policy; then mv "$policy" "$policy.before-limner"; fi
  printf '#!/bin/sh\n# limner: no services\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  # Erlang's port mapper is no service; whatever asks Erlang something starts one.
  local mapped=no
  if command -v epmd >/dev/null && epmd -names >/dev/null 2>&1; then mapped=yes; fi
  apt-get update -qq >/dev/null
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  if [ "$mapped" = no ] && command -v epmd >/dev/null; then epmd -kill >/dev/null 2>&1 || true; fi
  take_policy_back
  trap - EXIT
}

if [ ${#packages[@]} -gt 0 ] && [ -z "${NO_APT:-}" ] && command -v apt-get >/dev/null &&
  [ "$(id -u)" = 0 ]; then
  echo "Installing with apt-get, without starting services: ${packages[*]}   (NO_APT=1 skips this)"
  install_packages
elif [ ${#packages[@]} -gt 0 ]; then
  echo "Missing: ${packages[*]}. Skipped for it: $(printf '%s; ' "${skipped[@]}")"
fi

pytest=(.venv/bin/python -m pytest -q -n auto --dist loadscope)
if [ $# -eq 0 ] && command -v mariadbd >/dev/null; then
  echo "Actors and the front over MariaDB:"
  TESTS_DATABASE=mariadb "${pytest[@]}" tests/http tests/actors
  echo "Everything:"
fi
exec "${pytest[@]}" --durations=10 "$@"
