#!/usr/bin/env bash
# A real SLURM on one machine, for tests and for trying the profile: slurmctld, slurmd,
# munge, and slurmdbd with MariaDB so that sacct works; GPUs are pretended.
#   one_node.sh install       the Debian packages, or one line why not (status 0)
#   one_node.sh ready         whether a cluster can be brought up here; says why not
#   one_node.sh up DIR        returns when a job has run
#   one_node.sh down DIR      cancels jobs, stops the daemons, removes DIR
# Ordinary processes with a key of their own: no systemd, no cgroups, nothing outside DIR
# but the links /etc/slurm/slurm.conf and gres.conf. Those are needed since the executor
# plugin takes SLURM_CONF away from the srun inside a job.
# CPUS and GPUS (default 8 and 2) are what the node declares, PORT (16817) the first of
# three ports.
set -euo pipefail
command=${1:?install, ready, up or down}
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin

why_not() {
    if [ "$(id -u)" != 0 ]; then echo "only root can bring up a SLURM"; return; fi
    if [ -e /etc/slurm/slurm.conf ] && [ ! -L /etc/slurm/slurm.conf ]; then
        echo "this machine has a SLURM of its own (/etc/slurm/slurm.conf)"; return
    fi
    local program
    for program in slurmctld slurmd slurmdbd srun munged mariadbd; do
        if ! command -v "$program" > /dev/null; then
            echo "$program is missing; install: $(grep -v '^#' "$here/apt.txt" | paste -sd' ')"
            return
        fi
    done
}

install_packages() {
    local reason packages
    reason=$(why_not)
    [ -z "$reason" ] && return
    if [[ $reason != *"is missing"* ]] || ! command -v apt-get > /dev/null; then
        echo "SLURM tests will be skipped: $reason"
        return
    fi
    echo "installing SLURM for the tests"
    packages=$(grep -v '^#' "$here/apt.txt" | paste -sd' ')
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages > /dev/null
}

await() { # await SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    while ((SECONDS < end)); do
        timeout 15 "$@" > /dev/null 2>&1 && return
        sleep 0.2
    done
    echo "one_node.sh: timed out waiting for $what" >&2
    return 1
}

start_munge() {
    mkdir -m 0700 "$folder/munge"
    dd if=/dev/urandom of="$folder/munge/key" bs=1 count=1024 status=none
    chmod 600 "$folder/munge/key"
    munged --force --key-file="$folder/munge/key" --socket="$socket" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/munge/munged.log" \
        --seed-file="$folder/munge/seed" 2>> "$folder/log/munged.err"
    await 10 munged munge --socket="$socket" -n
}

start_accounting() {
    mariadb-install-db --user=root --datadir="$folder/mysql" --skip-test-db \
        --auth-root-authentication-method=normal > "$folder/log/mariadb-install.log" 2>&1
    mariadbd --no-defaults --user=root --datadir="$folder/mysql" \
        --socket="$folder/run/mysql.sock" --pid-file="$folder/run/mariadbd.pid" \
        --skip-networking --innodb-buffer-pool-size=64M --innodb-log-file-size=32M \
        > "$folder/log/mariadbd.log" 2>&1 < /dev/null &
    await 30 mariadbd mariadb --no-defaults -S "$folder/run/mysql.sock" -u root \
        -e 'create database if not exists slurm_acct_db'
    cat > "$folder/slurmdbd.conf" << X
AuthType=auth/munge
AuthInfo=socket=$socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile=$folder/log/slurmdbd.log
PidFile=$folder/run/slurmdbd.pid
X
    chmod 600 "$folder/slurmdbd.conf"
    SLURM_CONF=$folder/slurm.conf MYSQL_UNIX_PORT=$folder/run/mysql.sock \
        slurmdbd 2>> "$folder/log/slurmdbd.err"
    await 30 slurmdbd sacctmgr -n show cluster
    sacctmgr -i add cluster lab >> "$folder/log/sacctmgr.log" 2>&1 || true
    sacctmgr -i add account lab Cluster=lab >> "$folder/log/sacctmgr.log" 2>&1 || true
    sacctmgr -i add user root Account=lab >> "$folder/log/sacctmgr.log" 2>&1 || true
}

write_configuration() {
    local host memory gpu
    host=$(hostname -s)
    memory=$(awk '/MemTotal/{print int($2 / 1024 * 0.9)}' /proc/meminfo)
    mkdir -p "$folder/dev"
    for ((gpu = 0; gpu < gpus; gpu++)); do
        # A GPU must be a character device of its own: this one is a second /dev/null.
        mknod "$folder/dev/gpu$gpu" c 1 3
        echo "Name=gpu File=$folder/dev/gpu$gpu" >> "$folder/gres.conf"
    done
    cat > "$folder/slurm.conf" << X
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=200
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=5,sched_interval=5
ReturnToService=2
KillWait=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStorageTRES=gres/gpu
AccountingStoragePass=$socket
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory Gres=gpu:$gpus State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=1-0 State=UP
X
    mkdir -p /etc/slurm
    ln -sf "$folder/slurm.conf" "$folder/gres.conf" /etc/slurm/
}

up() {
    local reason
    reason=$(why_not)
    [ -z "$reason" ] || { echo "one_node.sh: $reason" >&2; exit 1; }
    [ ! -e "$folder/slurm.conf" ] || { echo "one_node.sh: $folder is in use; run down first" >&2; exit 1; }
    mkdir -p "$folder"/{state,spool,log,run,mysql}
    chmod 755 "$folder"
    trap 'tail -n 20 "$folder"/log/* >&2; down' ERR
    start_munge
    write_configuration
    start_accounting
    slurmctld 2>> "$folder/log/slurmctld.err"
    slurmd 2>> "$folder/log/slurmd.err"
    await 30 "an idle node" sh -c "sinfo -h -o %T | grep -qE '^(idle|mixed)$'"
    await 30 "a first job" srun --immediate=10 -n1 true
}

down() {
    trap - ERR
    timeout 10 scancel --user="$(id -un)" 2> /dev/null || true
    for ((i = 0; i < 50; i++)); do
        [ -z "$(timeout 5 squeue -h 2> /dev/null)" ] && break
        sleep 0.2
    done
    local daemon pid
    for daemon in slurmd slurmctld slurmdbd mariadbd munged; do
        [ -s "$folder/run/$daemon.pid" ] || continue
        pid=$(cat "$folder/run/$daemon.pid")
        kill "$pid" 2> /dev/null || continue
        for ((i = 0; i < 100; i++)); do
            kill -0 "$pid" 2> /dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2> /dev/null || true
    done
    local file
    for file in slurm.conf gres.conf; do
        [ "$(readlink "/etc/slurm/$file")" != "$folder/$file" ] || rm "/etc/slurm/$file"
    done
    rm -rf "$folder"
}

case $command in
    install) install_packages ;;
    ready)
        reason=$(why_not)
        echo "$reason"
        [ -z "$reason" ]
        ;;
    up | down)
        folder=$(realpath -m "${2:?a folder for the daemons}")
        socket=$folder/run/munge.sock
        cpus=${CPUS:-8} gpus=${GPUS:-2} port=${PORT:-16817}
        "$command"
        ;;
    *)
        echo "one_node.sh: $command: expected install, ready, up or down" >&2
        exit 2
        ;;
esac
