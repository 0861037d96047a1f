# Reads what `ptxas -v` prints and writes a line for each kernel.
/Function properties for/ {
  name = $NF
  sub(/^_ZN6vitals[0-9]+/, "", name)
  sub(/E.*$/, "", name)
}
/bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
/Used [0-9]+ registers/ {
  shared = 0
  for (i = 2; i <= NF; i++) {
    if ($i == "registers,") registers = $(i - 1)
    if ($i ~ /^smem/) shared = $(i - 2)
  }
  print arch, name, registers, stack, stores, loads, shared
}
/error|warning/ { print > "/dev/stderr" }
