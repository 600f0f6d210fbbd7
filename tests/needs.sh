#!/bin/bash
# Installs what the tests run besides Go: Debian packages where this user may,
# npm packages in tests/node_modules. What it may not install it names together
# with the command that does; the tests that need it are then skipped, and in
# CI (CI=true) fail.
set -euo pipefail
cd "$(dirname "$0")"

# program:package, or file:package
wanted=(
  prosody:prosody prosodyctl:prosody
  /usr/lib/prosody/modules/mod_ipcheck:prosody-modules
  ejabberdctl:ejabberd
  chromium:chromium
  certutil:libnss3-tools
  node:nodejs npm:npm
  openssl:openssl curl:curl
  nginx:nginx haproxy:haproxy
  certbot:certbot lego:lego
  podman:podman buildah:buildah runc:runc
  systemd-analyze:systemd promtool:prometheus
  fail2ban-regex:fail2ban
  rpm:rpm mandoc:mandoc man:man-db zsh:zsh fish:fish
)

missing=()
for want in "${wanted[@]}"; do
  # Servers live in /usr/sbin, which a plain user's PATH may lack.
  [[ -e ${want%%:*} ]] || PATH=$PATH:/usr/sbin:/sbin command -v "${want%%:*}" >/dev/null || missing+=("${want##*:}")
done
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u | sed '/^$/d')

if ((${#missing[@]})); then
  sudo=()
  ((EUID == 0)) || sudo=(sudo -n)
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    echo "not installed, some tests are skipped: ${missing[*]} (names of Debian's packages)" >&2
  elif ((EUID)) && ! sudo -n true 2>/dev/null; then
    echo "not installed, some tests are skipped; to run them: sudo $install" >&2
  else
    # A test needs the programs only: policy-rc.d keeps Debian from starting the
    # servers that it installs.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
      "${sudo[@]}" chmod 755 "$policy"
      trap '"${sudo[@]}" rm -f "$policy"' EXIT
    fi
    echo "$install"
    # Another installation may be under way, and a mirror may stumble.
    patient=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    "${sudo[@]}" apt-get update -qq "${patient[@]}" || echo "apt-get update failed; installing from what is known" >&2
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" $install "${patient[@]}" >/dev/null
  fi
fi

if command -v npm >/dev/null && [[ package-lock.json -nt node_modules/.package-lock.json ]]; then
  echo "npm ci in tests"
  npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error ||
    echo "no npm packages, some tests are skipped; to run them: npm ci --prefix tests" >&2
fi
