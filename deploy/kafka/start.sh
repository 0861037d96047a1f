#!/usr/bin/env bash
# Starts a real single-node Apache Kafka (KRaft) in the foreground: start.sh [PORT] [FOLDER]
# PORT 9092 and FOLDER target/data by default; CONTROLLER_PORT is PORT + 1 unless set. Ctrl-C or SIGTERM stops it.
# What was in FOLDER before is kept. The jars come by `make kafka`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PORT=${1:-9092}
folder=${2:-$here/target/data}
export CONTROLLER_PORT=${CONTROLLER_PORT:-$((PORT + 1))}
export LOG_DIR=$folder/log

[ -e "$here/target/.resolved" ] || { echo 'the jars are missing: make kafka' >&2; exit 2; }
command -v java >/dev/null || { echo 'java is missing (Debian: openjdk-17-jre-headless)' >&2; exit 2; }
mkdir -p "$folder"
properties=$folder/server.properties
sed -e "s|\${PORT}|$PORT|g" -e "s|\${CONTROLLER_PORT}|$CONTROLLER_PORT|g" -e "s|\${LOG_DIR}|$LOG_DIR|g" \
    "$here/server.properties" >"$properties"
java=(java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto
    -Dorg.slf4j.simpleLogger.defaultLogLevel="${KAFKA_LOG_LEVEL:-warn}"
    -Dorg.slf4j.simpleLogger.showDateTime=true
    -cp "$here/target/dependency/*")
if [ ! -e "$LOG_DIR/meta.properties" ]; then
    "${java[@]}" kafka.tools.StorageTool format --ignore-formatted \
        --cluster-id vitalstream-kafka-0001 --config "$properties" >/dev/null
fi
exec "${java[@]}" kafka.Kafka "$properties"
