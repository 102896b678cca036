#!/bin/sh
# The kubelet sets these values for the whole machine. A node is one container among others,
# so it is shown the values it wants without the machine being changed.
set -e
mkdir -p /run/guard
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  name=${setting%%=*}
  shown=/run/guard/$(echo "$name" | tr / _)
  if [ ! -e "$shown" ]; then
    echo "${setting#*=}" > "$shown"
    mount --bind "$shown" "/proc/sys/$name"
  fi
done
