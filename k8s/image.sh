#!/usr/bin/env bash
# Builds the image, measures it and writes its software bill of materials: image.sh LOCK NAME [build options].
# LOCK is serving or serving-cuda. Takes docker, podman or buildah, whichever is there and works; BUILDER= chooses one.
# The bill alone needs Python: that of `make bill`, or of VENV. Where neither has what writes it, it is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=$1 name=$2
shift 2

builder=${BUILDER:-}
for candidate in docker podman buildah; do
    [ -n "$builder" ] && break
    # A client without its engine builds nothing.
    "$candidate" info >/dev/null 2>&1 && builder=$candidate
done
if [ -z "$builder" ]; then
    echo "No image is built: neither docker, podman nor buildah works here. Install one, or set BUILDER." >&2
    exit 1
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
"$builder" build -t "$name:$version" -f Dockerfile "$@" \
    --build-arg "REQUIREMENTS=$lock" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" .

# What came out, and not what was asked for, is measured and goes into the bill of materials: all that is not the base's.
contents=$(mktemp -d)
trap 'rm -rf "$contents"' EXIT
if [ "$builder" = buildah ]; then
    rootless=()
    [ "$(id -u)" = 0 ] || rootless=(buildah unshare)
    "${rootless[@]}" bash -ec 'container=$(buildah from --pull-never "$1"); root=$(buildah mount "$container")
        cp -r "$root/opt/timbre/." "$root/app/." "$2"; buildah rm "$container" >/dev/null' - "$name:$version" "$contents"
else
    container=$("$builder" create "$name:$version")
    "$builder" cp "$container:/opt/timbre/." "$contents"
    "$builder" cp "$container:/app/." "$contents"
    "$builder" rm "$container" >/dev/null
fi
mkdir -p build
bytes=$(find "$contents" -type f -exec cat {} + | wc -c)
echo "$name:$version is $((bytes / 1000000)) MB without its base ($((bytes)) bytes)" | tee "build/$name-$version.size.txt"
echo "$name:$version is built by $builder"

bill="build/$name-$version.cdx.json"
rm -f "$bill" # of an image before this one
for python in "${VENV:-.venv}-bill/bin/python" "${VENV:-.venv}/bin/python"; do
    if "$python" -c "import cyclonedx_py" 2>/dev/null; then
        "$python" k8s/bill.py "$contents" pyproject.toml "$bill"
        echo "What is in it stands in $bill"
        exit
    fi
done
echo "What is in it is not written down: that needs cyclonedx-bom, which \`make bill\` installs." >&2
