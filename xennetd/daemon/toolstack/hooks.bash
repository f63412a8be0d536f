# Sources the vif-post.d/*.hook files given as arguments, as Xen's hotplug scripts do (call_hooks of
# xen-hotplug-common.sh). The variables of vif-common.sh are in the environment; the functions are defined below.
# A hook that fails stops no other hook, and does not affect the vif: the toolstack has its verdict by then.

log() {
  local level="$1"
  shift
  printf '%s: %s\n' "$level" "$*" >&2
}

xenstore_read() { xenstore-read "$@"; }
xenstore_read_default() { xenstore-read "$1" 2>/dev/null || printf '%s\n' "$2"; }
xenstore_write() { xenstore-write "$@"; }
do_without_error() { "$@" 2>/dev/null || log debug "$* failed"; }

failed=0
for hook in "$@"; do
  # shellcheck disable=SC1090 # the administrator's files
  . "$hook" || { log err "$hook failed with status $?"; failed=1; }
done
exit "$failed"
