"""The shell scripts that run inside a sandbox, on files that a stranger may have made. Only bytes come out."""

from __future__ import annotations

# Left out of snapshots when untracked, whatever the repository ignores: what running tests leaves behind.
EXCLUDED = "__pycache__/\n*.pyc\n.pytest_cache/\n"

MISSING, DIRECTORY, SPECIAL, DENIED, FAILED = 66, 67, 68, 69, 70

# The agent's own `.git`, and then the trusted index on stdout. Runs before anything hostile.
# Arguments: the base (commit or tree), the tree the files were checked out from, the object format.
INIT = f"""set -e
umask 022
export GIT_CONFIG_GLOBAL=/dev/null
git init -q --template= --object-format="$3" .
mkdir -p .git/info
printf '{EXCLUDED.replace(chr(10), chr(92) + "n")}' >.git/info/exclude
for objects in /git/objects/*; do echo "$objects"; done >.git/objects/info/alternates
git config user.name agent
git config user.email agent@sandbox.invalid
git config gc.auto 0
git config core.fsmonitor false
git symbolic-ref HEAD refs/heads/work
base=$1
[ "$(git cat-file -t "$base")" = commit ] || base=$(git commit-tree -m base "$base")
git update-ref refs/heads/work "$base"
git read-tree "$base"
git update-index -q --refresh || true
cp .git/index /tmp/index
if [ "$(git rev-parse "$1^{{tree}}")" != "$2" ]; then
  GIT_INDEX_FILE=/tmp/index git read-tree "$2"
  GIT_INDEX_FILE=/tmp/index git update-index -q --refresh || true
fi
cat /tmp/index
"""

# The tree's id on the first line of stdout, then a pack of what the known trees lack. `add` ends with 1 for a file
# that could not be read (the rest is added); 128 is a failure of the whole. Arguments: the known trees, newest first.
_SNAPSHOT = """set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_DIR=/gitdir GIT_WORK_TREE=/workspace GIT_INDEX_FILE=/tmp/index
export GIT_OBJECT_DIRECTORY=/tmp/objects GIT_ALTERNATE_OBJECT_DIRECTORIES=
for objects in /git/objects/*; do
  GIT_ALTERNATE_OBJECT_DIRECTORIES="$GIT_ALTERNATE_OBJECT_DIRECTORIES${GIT_ALTERNATE_OBJECT_DIRECTORIES:+:}$objects"
done
mkdir /tmp/objects
cp /gitdir/index /tmp/index
chmod u+w /tmp/index
ADD
tree=$(git write-tree)
echo "$tree"
[ "$tree" = "$1" ] && exit 0
{ echo "$tree"; for known in "$@"; do echo "^$known"; done; } | git pack-objects --revs --stdout -q
"""

SNAPSHOT = _SNAPSHOT.replace("ADD", "git add -A --ignore-errors -- . >&2 || [ $? -eq 1 ]")

# The same, looking only at what the overlay's upper layer, shown at /upper, says was changed; at everything when that
# is much, since git compares each file with each path of the list (40,000 took it 15 s). A list that can't be made
# (130 MB of paths, no python3) is a failure, never an empty list.
_CHANGED = r"""
import os, stat, sys
paths = []
def walk(upper, inside):
    try: entries = list(os.scandir(upper))
    except OSError: return paths.append(inside or b".")
    if inside and any(entry.name == b".git" for entry in entries): return paths.append(inside)
    for entry in entries:
        path = inside + b"/" + entry.name if inside else entry.name
        if path == b".git": continue
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            paths.append(path)
            continue
        try: opaque = os.getxattr(entry.path, "user.overlay.opaque", follow_symlinks=False) == b"y"
        except OSError: opaque = False
        if opaque or len(path) > 3000: paths.append(path)
        else: walk(entry.path, path)
sys.setrecursionlimit(100000)
walk(b"/upper", b"")
if len(paths) > 2000: paths = [b"."]
sys.stdout.buffer.write(b"".join(path + b"\0" for path in paths))
"""
ADD_CHANGED = f"""cat >/tmp/changed.py <<'CHANGED'
{_CHANGED}
CHANGED
python3 -I -S /tmp/changed.py >/tmp/changed
export GIT_LITERAL_PATHSPECS=1
[ ! -s /tmp/changed ] || git add -A --ignore-errors --pathspec-from-file=/tmp/changed --pathspec-file-nul >&2 ||
  [ $? -eq 1 ]"""
SNAPSHOT_CHANGED = _SNAPSHOT.replace("ADD", ADD_CHANGED)

# What a snapshot would have to read, when there is none: how many new and changed files, NUL, then the bytes of all of
# them and the largest, each as `bytes TAB path NUL`.
LARGEST = """set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_DIR=/gitdir GIT_WORK_TREE=/workspace
git ls-files -z -o -m --exclude-standard >/tmp/changed
du -bsc0 --files0-from=/tmp/changed >/tmp/sizes 2>/dev/null || [ -s /tmp/sizes ]
tr -dc '\\0' </tmp/changed | wc -c | tr '\\n' '\\0'
tail -zn 1 /tmp/sizes
head -zn -1 /tmp/sizes | sort -znr | head -zn 3
"""

# Arguments: path, bytes.
READ = f"""[ -e "$1" ] || exit {MISSING}
[ -d "$1" ] && exit {DIRECTORY}
[ -f "$1" ] || exit {SPECIAL}
[ -r "$1" ] || exit {DENIED}
exec head -c "$2" -- "$1"
"""

# Arguments: path, its directory. The content comes on stdin; an existing file keeps its mode.
WRITE = f"""[ -d "$1" ] && exit {DIRECTORY}
if [ -e "$1" ]; then
  [ -f "$1" ] || exit {SPECIAL}
  [ -w "$1" ] || exit {DENIED}
fi
mkdir -p -- "$2" || exit {FAILED}
cat >"$1" || exit {FAILED}
"""

GIT_DIR_CONFIG = """[core]
\trepositoryformatversion = {version}
\tbare = false
\tfilemode = true
\tautocrlf = false
\tfsmonitor = false
\thooksPath = /dev/null
[gc]
\tauto = 0
{extension}"""
