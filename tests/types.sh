#!/bin/sh
# mypy over the package as it is installed, with convert/ in its place, and over a program of a user: types.sh MYPY
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
view=$root/build/typed/mlx_colbert
rm -rf "$view"
mkdir -p "$view"
ln -s "$root"/mlx_colbert/* "$view"
ln -s "$root/convert" "$view/convert"
ln -sf "$root/tests/project/typed_user.py" "$root/build/typed/typed_user.py"
cd "$root/build/typed"
exec "$1" --config-file "$root/pyproject.toml" -p mlx_colbert -m typed_user
