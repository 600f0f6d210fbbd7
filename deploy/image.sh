#!/bin/bash
# Builds the container image with whichever of podman, buildah and docker is
# there, or the one that ENGINE names. IMAGE is its name. Nothing is fetched:
# the image has the binary, the licences, and this machine's roots of public CAs.
#
# STORAGE_DRIVER=vfs and the like are podman's and buildah's own variables.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${IMAGE:-wssgate}

context=build/image
mkdir -p "$context"
# Inlining makes code faster and larger. Only what each message passes has it.
flags=(-gcflags=all=-l)
for packages in wssgate/{proxy,xmpp} github.com/gobwas/... crypto/... vendor/golang.org/x/crypto/... runtime/... internal/... \
  syscall net golang.org/x/sys/... sync/... time bytes strings unicode/... math/... hash/... encoding/binary; do
  flags+=("-gcflags=$packages=")
done
CGO_ENABLED=0 go build -trimpath "${flags[@]}" -ldflags='-s -w' -o "$context/wssgate" .
for roots in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
  [[ -r $roots ]] && break
done
if [[ ! -r $roots ]]; then
  echo "deploy/image.sh: no roots of public CAs found; install ca-certificates" >&2
  exit 1
fi
cp "$roots" "$context/ca-certificates.crt"
cp LICENSE THIRD-PARTY-NOTICES "$context/"
chmod 755 "$context/wssgate"
chmod 644 "$context"/{ca-certificates.crt,LICENSE,THIRD-PARTY-NOTICES}

for engine in ${ENGINE:-podman buildah docker} ""; do
  [[ -n $engine ]] && command -v "$engine" >/dev/null && break
done
case $engine in
  # There is no RUN in the Containerfile, so that no isolation is needed.
  buildah) buildah build --isolation chroot -f deploy/Containerfile -t "$image" "$context" ;;
  podman) podman build --isolation chroot -f deploy/Containerfile -t "$image" "$context" ;;
  docker) docker build -f deploy/Containerfile -t "$image" "$context" ;;
  *) echo "deploy/image.sh: none of podman, buildah and docker is installed" >&2; exit 1 ;;
esac
