"""What a record says about the machine and the code it was made with."""

import os
import platform
import re
import subprocess


def cpuinfo():
    """The first processor's entries of /proc/cpuinfo."""
    entries = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                if not line.strip():
                    break
                entries[key.strip()] = value.strip()
    except OSError:
        pass
    return entries


def caches():
    """Sizes of the first CPU's caches by level and kind, as the system writes them: {"L2 Unified": "2048K"}."""
    base = "/sys/devices/system/cpu/cpu0/cache"
    sizes = {}
    for index in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        try:
            level, kind, size = (first_line(os.path.join(base, index, name)) for name in ("level", "type", "size"))
        except OSError:
            continue
        sizes[f"L{level} {kind}"] = size
    return sizes


def describe():
    entries = cpuinfo()
    return {
        "cpu": entries.get("model name") or platform.machine(),
        "family": entries.get("cpu family"),
        "model": entries.get("model"),
        "stepping": entries.get("stepping"),
        "virtual": "hypervisor" in entries.get("flags", "").split(),
        "features": [flag for flag in entries.get("flags", "").split() if re.match("avx|amx", flag)],
        "caches": caches(),
        "cpus": os.cpu_count(),
        "cores": len(cores()),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def slug(machine):
    """A folder's name for the CPU. Virtual machines hide the model's name, so its numbers are part of it."""
    name = re.sub(r"\(r\)|\(tm\)|@.*|\bcpu\b|\bprocessor\b|\b\d+-core\b", " ", machine["cpu"].lower())
    words = re.findall("[a-z0-9]+", name)
    numbers = [f"{key}{machine[key]}" for key in ("family", "model") if machine[key]]
    return "-".join(words + numbers)


def cores():
    """The CPUs that this process may use, one a core: threads that share a core would share its integer units."""
    chosen, taken = [], set()
    for cpu in sorted(os.sched_getaffinity(0)):
        try:
            core = first_line(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        except OSError:
            core = str(cpu)
        if core not in taken:
            taken.add(core)
            chosen.append(cpu)
    return chosen


def commit(root):
    """The commit, and whether the code differs from it."""
    def git(*arguments):
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True).stdout.strip()

    # Earlier records are not the code.
    changes = git("status", "--porcelain", "--", ".", ":!benches/records")
    return git("rev-parse", "HEAD") or None, bool(changes)


def first_line(path):
    with open(path) as file:
        return file.readline().strip()
