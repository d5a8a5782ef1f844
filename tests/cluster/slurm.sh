#!/usr/bin/env bash
# A real SLURM on this one machine, with one GPU that is none: /dev/null stands for its device.
#
#   slurm.sh start     install slurm-wlm and munge where they are missing, and start all of it
#   slurm.sh control   start the controller alone
#   slurm.sh kill      kill the controller as a crash would
#   slurm.sh stop      stop what was started
#
# It needs root, and writes /etc/slurm, for a nested srun reads no other place.
set -euo pipefail

readonly MARK="# of the ViTals cluster tests"
readonly STATE=/var/lib/vitals-slurm

refuse() { echo "slurm.sh: $*" >&2; exit 3; }

install() {
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
  command -v apt-get >/dev/null || refuse "slurm-wlm and munge are missing, and there is no apt-get"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >/dev/null \
    || refuse "slurm-wlm and munge could not be installed"
}

configure() {
  if [ -e /etc/slurm/slurm.conf ] && ! grep -q "^$MARK" /etc/slurm/slurm.conf; then
    refuse "/etc/slurm/slurm.conf is another's: this machine has a SLURM already"
  fi
  mkdir -p /etc/slurm "$STATE/controller" "$STATE/node"
  cat > /etc/slurm/slurm.conf <<CONF
$MARK
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/node
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
# a container has neither cgroups of its own nor a database
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
# jobs ask for more memory than tiny studies use, and than a small machine has
SlurmdParameters=config_overrides
# squeue and scontrol tell of jobs that ended, however slow the machine is
MinJobAge=86400
ReturnToService=2
GresTypes=gpu
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2 RealMemory=100000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=$(hostname -s) Default=YES MaxTime=INFINITE State=UP
CONF
  echo "Name=gpu File=/dev/null" > /etc/slurm/gres.conf
}

start_munge() {
  munge -n >/dev/null 2>&1 && return
  mkdir -p /run/munge /var/log/munge /var/lib/munge
  [ -e /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
  chown -R munge: /run/munge /etc/munge /var/log/munge /var/lib/munge
  chmod 400 /etc/munge/munge.key
  setpriv --reuid=munge --regid=munge --clear-groups munged --force
  touch "$STATE/munged"
}

wait_for_node() {
  for _ in $(seq 300); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && return
    sleep 0.1
  done
  refuse "the node is not idle after 30 seconds: see $STATE/*.log"
}

case "${1:-}" in
  start)
    [ "$(id -u)" = 0 ] || refuse "SLURM can only be started by root"
    install
    configure
    start_munge
    slurmctld -c
    slurmd -c
    wait_for_node
    ;;
  control) slurmctld ;;
  kill) kill -9 "$(cat "$STATE/slurmctld.pid")" ;;
  stop)
    for daemon in slurmd slurmctld; do
      [ ! -e "$STATE/$daemon.pid" ] || kill "$(cat "$STATE/$daemon.pid")" 2>/dev/null || true
    done
    if [ -e "$STATE/munged" ]; then
      kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
      rm "$STATE/munged"
    fi
    ;;
  *) refuse "expected start, control, kill or stop" ;;
esac
