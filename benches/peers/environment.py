"""A virtual environment with the peers in it, made once (about 2.6 GB), for machines without a GPU.

torch's Linux wheel links to CUDA's libraries, 3 GB more that nothing here calls. Stand-ins with the same names and symbols let it
load: every function in them fails with an error code.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict

HERE = os.path.dirname(os.path.abspath(__file__))
STUBS = "cuda-stubs"
# CUDA's "initialization error": whoever asks is told that there is no GPU.
FAILS = 3


def python(folder):
    return os.path.join(folder, "bin", "python")


def variables(folder):
    """The variables a program needs to run in it."""
    # torch says of every quantised tensor that another way will come.
    return {"LD_LIBRARY_PATH": os.path.join(folder, STUBS), "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}


def make(folder, say=print):
    """Makes the environment where it is not there yet, of these versions."""
    wanted = "".join(read(os.path.join(HERE, name)) for name in ("requirements.txt", "requirements-torch.txt"))
    ready = os.path.join(folder, "ready")
    if os.path.exists(ready) and read(ready) == wanted:
        return
    say(f"making the peers' environment in {folder} (about 2.6 GB, once)")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(pip + ["-r", os.path.join(HERE, "requirements.txt")], check=True)
    subprocess.run(pip + ["--no-deps", "-r", os.path.join(HERE, "requirements-torch.txt")], check=True)
    libraries = glob.glob(os.path.join(folder, "lib", "python3*", "site-packages", "torch", "lib"))
    make_stubs(libraries[0], os.path.join(folder, STUBS))
    with open(ready, "w") as file:
        file.write(wanted)


def read(path):
    with open(path) as file:
        return file.read()


def lines(*command, **variables):
    """What a program prints; it may fail, as `nm` does on a file without symbols."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **variables})
    return done.stdout.splitlines()


def make_stubs(torch, into):
    """A library for each one that `torch` (a folder of libraries) links to and this machine lacks."""
    os.makedirs(into, exist_ok=True)
    own = sorted(glob.glob(os.path.join(torch, "*.so*")))
    missing = set()
    for library in own:
        for line in lines("ldd", library, LD_LIBRARY_PATH=torch):
            if line.strip().endswith("=> not found"):
                missing.add(line.split()[0])
    home = versions_of(own, missing)
    symbols = defaultdict(dict)
    defined, unversioned = set(), set()
    for library in own + system_libraries():
        for line in lines("nm", "-D", "--defined-only", library):
            defined.add(line.split()[-1].split("@")[0])
    for library in own:
        for line in lines("nm", "-D", "--undefined-only", library):
            name, _, version = line.split()[-1].partition("@")
            version = version.lstrip("@")
            if version in home:
                symbols[home[version]][name] = version
            elif not version and name not in defined and not re.match("_?Py", name):
                unversioned.add(name)
    for index, library in enumerate(sorted(missing)):
        # Which library has an unversioned symbol is not written anywhere, and the loader takes it from any.
        extra = unversioned - symbols[library].keys() if index == 0 else set()
        versions = sorted(version for version, of in home.items() if of == library)
        write_stub(os.path.join(into, library), library, symbols[library], extra, versions)


def system_libraries():
    """The C and C++ libraries, whose symbols are no stub's business."""
    names = "libc libm libstdc++ libgcc_s libdl libpthread librt libgomp ld-linux-x86-64".split()
    found = []
    for line in lines("ldconfig", "-p"):
        path = line.split("=>")[-1].strip()
        if os.path.basename(path).split(".so")[0] in names:
            found.append(path)
    return found


def versions_of(libraries, wanted):
    """Which of the wanted libraries each symbol version is asked of."""
    home = {}
    for library in libraries:
        asked = None
        for line in lines("readelf", "-VW", library):
            file = re.search(r"File: (\S+)", line)
            name = re.search(r"Name: (\S+)\s+Flags", line)
            if file:
                asked = file.group(1)
            if name and asked in wanted:
                home[name.group(1)] = asked
    return home


def write_stub(path, name, symbols, unversioned, versions):
    with tempfile.TemporaryDirectory() as folder:
        source, script = os.path.join(folder, "stub.c"), os.path.join(folder, "stub.map")
        with open(source, "w") as file:
            for symbol in sorted(set(symbols) | unversioned):
                file.write(f"int {symbol}(void) {{ return {FAILS}; }}\n")
        with open(script, "w") as file:
            for version in versions:
                names = "".join(f" {symbol};" for symbol, of in sorted(symbols.items()) if of == version)
                file.write(f"{version} {{ global:{names} }};\n" if names else f"{version} {{ }};\n")
        command = ["cc", "-shared", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{name}", "-o", path, source]
        if versions:
            command.insert(1, f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)
