# Tries what a tool must not be able to do. Each attempt runs in a process of its own and prints one line of JSON: its
# name, whether it got what it wanted, and what came back. Whom and what to try it on is in targets.json.
import array, ctypes, errno, glob, json, os, resource, signal, socket, struct, subprocess, sys, urllib.error, urllib.request

T = json.load(open('targets.json'))
CALLS = T['calls']
libc = ctypes.CDLL(None, use_errno=True)
WORDS = ('KEY', 'SECRET', 'TOKEN', 'PASSWORD', 'DATABASE_URL', 'REDIS_URL', 'CANARY')
attempts = []


class Refused(Exception):
    pass


def attempt(function):
    attempts.append((function.__name__.replace('_', ' '), function))
    return function


def call(name, *arguments):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    gave = libc.syscall(ctypes.c_long(CALLS[name]), *words)
    if gave < 0:
        number = ctypes.get_errno()
        raise OSError(number, name)
    return gave


def first(tries):
    # The first that works; else the last refusal.
    refused = Refused('nothing to try')
    for one in tries:
        try:
            return one()
        except Exception as error:
            refused = error
    raise refused


def others():
    return [1, T['pid']] + [int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]


def need(found, what):
    if not found:
        raise Refused(what)
    return found


def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(2)
        s.connect(address)
        return f'connected to {address}'


@attempt
def secrets_in_the_environment():
    return need([name for name in os.environ if any(word in name.upper() for word in WORDS)], 'none')


@attempt
def environment_of_process_1():
    return need(open('/proc/1/environ', 'rb').read(), 'empty')


@attempt
def environment_of_other_processes():
    def read(pid):
        data = open(f'/proc/{pid}/environ', 'rb').read()
        return need(T['canary'].encode() in data and f'the canary in {pid}', 'no canary')
    return first([lambda pid=pid: read(pid) for pid in others()])


@attempt
def memory_of_other_processes():
    def read(pid):
        start = int(open(f'/proc/{pid}/maps').readline().split('-')[0], 16)
        with open(f'/proc/{pid}/mem', 'rb') as memory:
            memory.seek(start)
            return f'{len(memory.read(16))} bytes of {pid}'
    return first([lambda pid=pid: read(pid) for pid in others() if pid != os.getppid()])


@attempt
def process_vm_readv():
    buffer = ctypes.create_string_buffer(16)
    local = struct.pack('PN', ctypes.addressof(buffer), 16)
    remote = struct.pack('PN', ctypes.addressof(buffer), 16)
    return f"{call('process_vm_readv', T['pid'], local, 1, remote, 1, 0)} bytes"


@attempt
def tracing_a_process():
    seize = 0x4206
    return first([lambda pid=pid: f"traces {pid}: {call('ptrace', seize, pid, 0, 0)}" for pid in others()])


@attempt
def tracing_a_child_of_its_own():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        return call('ptrace', 0x4206, pid, 0, 0)
    finally:
        os.kill(pid, signal.SIGKILL)


@attempt
def open_files_of_others():
    def look(pid):
        return [os.readlink(f'/proc/{pid}/{name}') for name in ('cwd', 'exe', 'root')]
    return first([lambda pid=pid: f'{pid}: {look(pid)}' for pid in [1, T['pid']]])


@attempt
def the_order_with_its_addresses():
    def look(path):
        return f'{path}: {len(open(path, "rb").read())} bytes'
    mounted = glob.glob('/run/agent-order/*') + glob.glob('/run/agent-order/..data/*') + ['/run/agent-order/order.json']
    return first([lambda path=path: look(path) for path in mounted])


@attempt
def files_of_ours_below_run():
    found = []
    for root, _, names in os.walk('/run'):
        for name in names:
            path = os.path.join(root, name)
            try:
                if not path.startswith('/run/code') and open(path, 'rb').read(64):
                    found.append(path)
            except OSError:
                pass
    return need(found, 'none can be read')


@attempt
def token_of_the_service_account():
    return open('/var/run/secrets/kubernetes.io/serviceaccount/token').read()


@attempt
def metadata_address():
    return connect(socket.AF_INET, ('169.254.169.254', 80))


@attempt
def port_of_a_service_on_this_machine():
    return connect(socket.AF_INET, ('127.0.0.1', T['port']))


@attempt
def api_server():
    return connect(socket.AF_INET, tuple(T['api_server']))


@attempt
def asking_the_store():
    try:
        return urllib.request.urlopen(T['store'], timeout=2).read()
    except urllib.error.HTTPError as error:
        # Refused for want of a signature, but asked.
        return f'answered with {error.code}'


@attempt
def names_on_the_internet():
    return socket.getaddrinfo('example.com', 443)


@attempt
def datagram_to_the_internet():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return s.sendto(b'x', ('1.1.1.1', 53))


@attempt
def raw_and_rare_sockets():
    kinds = [(17, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW), (16, socket.SOCK_RAW), (40, socket.SOCK_STREAM), (38, 5)]
    return first([lambda kind=kind: f'{kind}: {socket.socket(*kind)}' for kind in kinds])


@attempt
def abstract_socket_of_the_host():
    return connect(socket.AF_UNIX, '\0' + T['abstract'])


@attempt
def sockets_of_container_runtimes():
    paths = [T['unix'], '/var/run/docker.sock', '/run/containerd/containerd.sock', '/run/crio/crio.sock']
    return first([lambda path=path: connect(socket.AF_UNIX, path) for path in paths])


@attempt
def workspaces_of_other_runs():
    return open(T['outside']).read()


@attempt
def escape_by_dots():
    return open('/'.join(['..'] * 20) + T['outside']).read()


@attempt
def escape_by_link():
    os.symlink(T['outside'], 'escape')
    try:
        return open('escape').read()
    finally:
        os.unlink('escape')


@attempt
def escape_by_the_root_of_others():
    return first([lambda pid=pid: open(f"/proc/{pid}/root{T['outside']}").read() for pid in [1, T['pid']]])


@attempt
def escape_by_handle():
    handle = struct.pack('Ii8s', 8, 1, b'\2\0\0\0\0\0\0\0')
    return call('open_by_handle_at', os.open('/', os.O_RDONLY), handle, 0)


@attempt
def chroot():
    return os.chroot('/tmp')


def make(path):
    # Appends nothing: a hole does no harm.
    existed = os.path.exists(path)
    open(path, 'ab').close()
    if not existed:
        os.unlink(path)
    return path


@attempt
def writing_to_the_system():
    places = ['/x', '/usr/x', '/usr/bin/x', '/etc/x', '/etc/passwd', '/lib/x', '/run/x', '/dev/x', '/proc/x', '/var/x', '/opt/x']
    return first([lambda path=path: make(path) for path in places])


@attempt
def writing_outside():
    return make(T['outside'])


@attempt
def settings_of_the_kernel():
    paths = ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/sys/kernel/uevent_helper']
    return first([lambda path=path: make(path) for path in paths if os.path.exists(path)])


@attempt
def setuid_programs():
    status = dict(line.split(':\t') for line in open('/proc/self/status').read().splitlines() if ':\t' in line)
    if status['NoNewPrivs'].strip() != '1':
        return 'rights can be gained'
    said = subprocess.run(['su', '-c', 'id -u'], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5)
    return need(said.stdout.strip() == '0' and 'root', said.stderr.strip() or 'no root')


@attempt
def mount():
    return first([
        lambda: call('mount', b'none', b'/tmp', b'tmpfs', 0, b''),
        lambda: call('mount', b'/', b'/tmp', b'', 0x5000, b''),
        lambda: call('fsopen', b'tmpfs', 0),
        lambda: call('open_tree', -100, b'/', 1),
    ])


@attempt
def namespaces():
    flags = [0x10000000, 0x10020000, 0x40000000, 0x20000000, 0x04000000, 0x08000000, 0x00020000, 0x02000000, 0x80]
    return first([lambda flag=flag: f"unshare {flag:#x}: {call('unshare', flag)}" for flag in flags])


@attempt
def a_user_namespace_by_clone():
    def clone():
        pid = call('clone', 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        return f'child {pid}'

    def clone3():
        words = array.array('Q', [0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0])
        pid = call('clone3', words.tobytes(), 64)
        if pid == 0:
            os._exit(0)
        return f'child {pid}'
    return first([clone, clone3])


@attempt
def namespaces_of_others():
    kinds = ['mnt', 'net', 'pid', 'user']
    tries = [(pid, kind) for pid in [1, T['pid']] for kind in kinds]
    return first([lambda t=t: call('setns', os.open(f'/proc/{t[0]}/ns/{t[1]}', os.O_RDONLY), 0) for t in tries])


@attempt
def device_files():
    def node(kind, major, minor):
        os.mknod('device', 0o666 | kind, os.makedev(major, minor))
        os.unlink('device')
        return 'made'
    return first([lambda: node(0o020000, 1, 1), lambda: node(0o060000, 8, 0)])


@attempt
def memory_and_disks_of_the_machine():
    paths = ['/dev/mem', '/dev/kmem', '/dev/kmsg', '/dev/port', '/proc/kcore', '/proc/kmsg'] + glob.glob('/dev/sd*') + glob.glob('/dev/vd*') + glob.glob('/dev/nvme*')
    return first([lambda path=path: f'{path}: {len(open(path, "rb", 0).read(1))}' for path in paths])


@attempt
def keyring_of_the_kernel():
    return first([
        lambda: call('add_key', b'user', b'agent', b'x', 1, -3),
        lambda: call('keyctl', 0, -3, 1),
        lambda: call('request_key', b'user', b'agent', b'', -3),
    ])


@attempt
def bpf():
    return call('bpf', 0, struct.pack('IIIII', 2, 4, 4, 1, 0) + bytes(100), 120)


@attempt
def performance_events():
    return call('perf_event_open', struct.pack('IIQ', 1, 112, 0) + bytes(112), 0, -1, -1, 0)


@attempt
def io_uring():
    return call('io_uring_setup', 4, bytes(120))


@attempt
def faults_of_memory_in_user_space():
    return call('userfaultfd', 1)


@attempt
def kernel_modules():
    return first([
        lambda: call('init_module', b'x', 1, b''),
        lambda: call('finit_module', 0, b'', 0),
        lambda: call('delete_module', b'no_such_module', 0o4000),
    ])


@attempt
def clock_and_names_of_the_machine():
    # The clock is set to what it is.
    return first([
        lambda: call('clock_settime', 0, struct.pack('qq', 0, -1)) or 'set',
        lambda: call('sethostname', b'sandbox', 7) or 'named',
        lambda: call('reboot', 0xfee1dead, 0, 0, 0),
        lambda: call('swapoff', b'/nowhere'),
    ])


@attempt
def higher_limits():
    def above(kind):
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY:
            raise Refused('unlimited here')
        resource.setrlimit(kind, (hard, hard + 1))
        return f'{kind} above {hard}'
    return first([lambda kind=kind: above(kind) for kind in [resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE]])


@attempt
def limits_of_process_1():
    return call('prlimit64', 1, resource.RLIMIT_NOFILE, struct.pack('QQ', 8, 8), 0)


@attempt
def signals_to_others():
    return first([lambda: f"{os.kill(T['pid'], 0)} the target", lambda: f'{os.kill(1, 0)} process 1'])


@attempt
def priority_of_process_1():
    return os.sched_setaffinity(1, {0})


@attempt
def typing_into_a_terminal():
    import fcntl
    return fcntl.ioctl(0, 0x5412, b'x')


def run(name, function):
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = {'got': True, 'said': str(function())[:200]}
        except BaseException as error:
            code = errno.errorcode.get(getattr(error, 'errno', None), type(error).__name__)
            said = {'got': False, 'said': f'{code}: {error}' if isinstance(error, Refused) else code}
        os.write(writable, json.dumps(said).encode())
        os._exit(0)
    os.close(writable)
    said = os.read(readable, 4096)
    _, status = os.waitpid(pid, 0)
    os.close(readable)
    # An attempt may take its process with it.
    result = json.loads(said) if said else {'got': False, 'said': f'ended by {status}'}
    print(json.dumps({'name': name, **result}), flush=True)


wanted = sys.argv[1:] or T['only']
for name, function in attempts:
    if not wanted or name in wanted:
        run(name, function)
