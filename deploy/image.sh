#!/bin/bash
# Builds the container image with whichever of podman, buildah and docker is
# there, or the one that ENGINE names. IMAGE is its name, ARCHS the architectures, by
# default this machine's. Of several, each image has its architecture behind its name, and
# IMAGE is the list of them (docker makes lists only in a registry). Nothing is fetched:
# an image has the binary, the licences, and this machine's roots of public CAs.
#
# STORAGE_DRIVER=vfs and the like are podman's and buildah's own variables.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${IMAGE:-wssgate}
read -ra archs <<<"${ARCHS:-$(go env GOHOSTARCH)}"

context=build/image
mkdir -p "$context"
# Inlining makes code faster and larger. Only what each message passes has it.
flags=(-gcflags=all=-l)
for packages in wssgate/{proxy,xmpp} github.com/gobwas/... crypto/... vendor/golang.org/x/crypto/... runtime/... internal/... \
  syscall net golang.org/x/sys/... sync/... time bytes strings unicode/... math/... hash/... encoding/binary; do
  flags+=("-gcflags=$packages=")
done
# Nothing here needs HTTP/2: clients and servers speak HTTP/1.1, and so do CAs.
for arch in "${archs[@]}"; do
  GOOS=linux GOARCH=$arch CGO_ENABLED=0 go build -trimpath -tags nethttpomithttp2 "${flags[@]}" -ldflags='-s -w' -o "$context/$arch/wssgate" .
  chmod 755 "$context/$arch" "$context/$arch/wssgate"
done
for roots in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
  [[ -r $roots ]] && break
done
if [[ ! -r $roots ]]; then
  echo "deploy/image.sh: no roots of public CAs found; install ca-certificates" >&2
  exit 1
fi
cp "$roots" "$context/ca-certificates.crt"
cp LICENSE THIRD-PARTY-NOTICES "$context/"
chmod 644 "$context"/{ca-certificates.crt,LICENSE,THIRD-PARTY-NOTICES}

for engine in ${ENGINE:-podman buildah docker} ""; do
  [[ -n $engine ]] && command -v "$engine" >/dev/null && break
done
# There is no RUN in the Containerfile, so that no isolation is needed.
isolation=(--isolation chroot)
case $engine in
  buildah | podman) ;;
  docker) isolation=() ;;
  *) echo "deploy/image.sh: none of podman, buildah and docker is installed" >&2; exit 1 ;;
esac
names=()
for arch in "${archs[@]}"; do
  name=$image
  ((${#archs[@]} == 1)) || name+=-$arch
  "$engine" build "${isolation[@]}" --platform "linux/$arch" --build-arg "ARCH=$arch" -f deploy/Containerfile -t "$name" "$context"
  names+=("$name")
done
if ((${#archs[@]} > 1)) && [[ $engine != docker ]]; then
  "$engine" manifest rm "$image" >/dev/null 2>&1 || true
  "$engine" manifest create "$image" >/dev/null
  for name in "${names[@]}"; do
    "$engine" manifest add "$image" "containers-storage:$name" >/dev/null
  done
fi
