#!/bin/sh
# Starts a Slurm of one node with two slots, on this machine alone:
#     apt-get install slurm-wlm munge; pip install "submitit>=1.5"
#     sh tests/slurm_here.sh FOLDER; export SLURM_CONF=FOLDER/slurm.conf
#     python -m pytest tests/test_studies_slurm.py -m slow
# It is for a container or a machine to throw away: it needs root, and uses no cgroups.
# `kill $(cat FOLDER/*.pid)` ends it.
set -e
folder=$(mkdir -p "$1" && cd "$1" && pwd)
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool" /run/munge
chown munge: /run/munge
[ -f /etc/munge/munge.key ] || { mungekey --create; chown munge: /etc/munge/munge.key; }
munge -n >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged
cat > "$folder/slurm.conf" <<END
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmdParameters=config_overrides
JobRequeue=1
ReturnToService=2
MinJobAge=600
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000
PartitionName=all Nodes=ALL DefMemPerCPU=2000 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
export SLURM_CONF="$folder/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in 1 2 3 4 5 6 7 8 9 10; do
  [ "$(sinfo --noheader --format=%T --states=idle)" ] && exec sinfo
  sleep 1
done
echo "the node is not idle after 10 seconds; $folder/$host.log says why" >&2
exit 1
