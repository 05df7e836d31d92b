#!/usr/bin/env bash
# Builds the image and its software bill of materials: image.sh LOCK NAME [build options].
# LOCK is serving or serving-cuda. Takes docker, podman or buildah, whichever is there and works; BUILDER= chooses one.
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
mkdir -p build
# It warns that a flat lock has no graph of dependencies, which is so.
PYTHONWARNINGS=ignore::UserWarning "${VENV:-.venv}/bin/cyclonedx-py" requirements "requirements/$lock.txt" --pyproject pyproject.toml \
    --output-reproducible --of JSON -o "build/$name-$version.cdx.json"
"$builder" build -t "$name:$version" -f Dockerfile "$@" \
    --build-arg "REQUIREMENTS=$lock" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" .
echo "$name:$version is built by $builder; what is in it stands in build/$name-$version.cdx.json"
