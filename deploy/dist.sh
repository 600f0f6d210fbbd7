#!/bin/bash
# Builds what is released, in build/dist: for each of PLATFORMS a static binary in a
# tarball and its SBOM, packages for Debian and RPM for those of Linux, and SHA256SUMS.
# The same commit gives the same files, wherever it is built, with the same release of Go.
#
# NFPM is the program that makes the packages; without it there are none.
# SOURCE_DATE_EPOCH is the time of all files, by default that of the commit.
set -euo pipefail
cd "$(dirname "$0")/.."
platforms=${PLATFORMS:?make dist sets it}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export LC_ALL=C TZ=UTC
umask 022
out=build/dist stage=build/stage
rm -rf "$out" "$stage"
mkdir -p "$out" "$stage"

build() { # GOOS GOARCH FILE
  GOOS=$1 GOARCH=$2 CGO_ENABLED=0 go build -trimpath -buildvcs=true -ldflags='-s -w' -o "$3" .
}
build "$(go env GOHOSTOS)" "$(go env GOHOSTARCH)" "$stage/host"
# As Go derives it from tags, so that each sorts where it belongs.
read -r _ version _ < <("$stage/host" version)
version=${version%,} version=${version#v}
[[ $version == [0-9]* ]] || { echo "deploy/dist.sh: no version: this is not a checkout of git" >&2; exit 1; }
go run ./manual -program "$stage/host" -date "$(date -d "@$SOURCE_DATE_EPOCH" +%F)" -o "$stage/manual"

# Packages install the program where the distribution's programs are.
mkdir "$stage/units"
sed 's|/usr/local/|/usr/|g; s|^# /etc/systemd/system/|# /usr/lib/systemd/system/|' deploy/wssgate.service >"$stage/units/wssgate.service"
sed 's|^# /etc/systemd/system/|# /usr/lib/systemd/system/|' deploy/wssgate.socket >"$stage/units/wssgate.socket"
gzip -9n <"$stage/manual/wssgate.1" >"$stage/wssgate.1.gz"
gzip -9n <"$stage/manual/wssgate.toml.5" >"$stage/wssgate.toml.5.gz"

for platform in $platforms; do
  os=${platform%/*} arch=${platform#*/}
  name=wssgate-$version-$os-$arch
  top=$stage/$os-$arch/wssgate-$version
  program=$top/wssgate
  [[ $os == windows ]] && program+=.exe
  mkdir -p "$top"
  build "$os" "$arch" "$program"
  go run ./sbom "$version" "$program" >"$out/$name.cdx.json"
  cp -r README.md CHANGELOG.md LICENSE THIRD-PARTY-NOTICES config.toml.example "$stage/manual" "$top/"
  [[ $os == linux ]] && cp deploy/wssgate.service deploy/wssgate.socket "$top/"
  tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=go-w --mtime="@$SOURCE_DATE_EPOCH" \
    -C "${top%/*}" -c "wssgate-$version" | gzip -9n >"$out/$name.tar.gz"
  if [[ $os == linux && -n ${NFPM:-} ]]; then
    for packager in deb rpm; do
      VERSION=$version ARCH=$arch PROGRAM=$program STAGE=$stage \
        "$NFPM" package -f deploy/package/nfpm.yaml -p "$packager" -t "$out" >/dev/null
    done
  fi
done
(cd "$out" && sha256sum -- * >SHA256SUMS)
echo "$out:"
ls "$out"
