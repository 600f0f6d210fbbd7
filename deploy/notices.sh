#!/bin/bash
# Prints the licences and notices of everything that the binary contains: the
# modules it links and Go's own library. make notices writes them to
# THIRD-PARTY-NOTICES, which goes into the image.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "wssgate contains the software below, each under its own licence."
section() { # NAME FILE...
  printf '\n%s\n%s\n' "$(printf '=%.0s' {1..78})" "$1"
  shift
  for file; do
    printf '\n%s\n\n' "--- $(basename "$file")"
    tr -d '\r' <"$file" | sed 's/[[:space:]]*$//'
  done
}
section "The Go standard library" "$(go env GOROOT)/LICENSE"
GOOS=linux go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' . | sort -u |
  while read -r path version dir; do
    mapfile -t files < <(find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) | sort)
    if [[ ${#files[@]} -eq 0 ]]; then
      echo "deploy/notices.sh: $path $version has no licence" >&2
      exit 1
    fi
    section "$path $version" "${files[@]}"
  done
