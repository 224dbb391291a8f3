#!/usr/bin/env bash
# Every test. Chromium is looked for, and on Debian or Ubuntu as root fetched with apt
# (NO_APT=1 skips that); without it the browser tests are skipped with their reason, and with CI
# set they fail instead.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v chromium >/dev/null || packages+=(chromium)
if [ ! -e /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc ]; then
  packages+=(fonts-noto-cjk)
fi

if [ ${#packages[@]} -gt 0 ] && [ -z "${NO_APT:-}" ] && command -v apt-get >/dev/null &&
  [ "$(id -u)" = 0 ]; then
  echo "Installing with apt-get: ${packages[*]}   (NO_APT=1 skips this)"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends \
    "${packages[@]}" >/dev/null
elif [ ${#packages[@]} -gt 0 ]; then
  echo "Missing: ${packages[*]}. The tests in tests/browser need it and are skipped."
fi

exec .venv/bin/python -m pytest -q -n auto --dist loadscope --durations=10 "$@"
