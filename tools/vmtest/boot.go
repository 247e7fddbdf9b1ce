//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// A job is what the virtual machine is to do.
type job struct {
	Args, Env []string
	Dir       string // of the tests, in the module
	UID       int
	Modules   int
}

// exitLine is followed by the exit status of the tests.
const startLine, exitLine = "vmtest: Linux ", "vmtest: exit "

// boot boots a kernel with this program as init, which runs a test binary, and
// returns what became of that.
func boot(t target, args []string) error {
	root, err := fetch(machines[t.arch].debian, t.release, t.kernel)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := initramfs(tmp, root, args); err != nil {
		return err
	}
	qemu, err := emulator(t, tmp, root)
	if err != nil {
		return err
	}
	// With a signal, go test ends what takes too long.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	defer stop()
	started, err := watch(exec.CommandContext(ctx, qemu[0], qemu[1:]...))
	for again := 0; again < 3 && !started && ctx.Err() == nil; again++ {
		fmt.Println("vmtest: booting again, because", err)
		started, err = watch(exec.CommandContext(ctx, qemu[0], qemu[1:]...))
	}
	return err
}

type exitStatus int

func (s exitStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// watch runs the virtual machine, and prints what comes from the tests, or if
// they do not start, what else there is.
func watch(cmd *exec.Cmd) (started bool, err error) {
	runtime.LockOSThread() // whose end would be the virtual machine's
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return false, err
	}
	var before []string
	status := -1
	for b := bufio.NewReader(out); err == nil; {
		var line string
		line, err = b.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if code, ok := strings.CutPrefix(line, exitLine); ok {
			status, _ = strconv.Atoi(code)
		} else if started = started || strings.HasPrefix(line, startLine); !started {
			before = append(before, line)
		} else if status < 0 { // what comes later is the kernel's goodbye
			fmt.Println(line)
		}
	}
	err = cmd.Wait()
	switch {
	case !started:
		fmt.Println(strings.Join(before, "\n"))
		return false, fmt.Errorf("the kernel has not booted (qemu: %v)", err)
	case status < 0:
		return true, fmt.Errorf("the tests have not ended (qemu: %v)", err)
	case status > 0:
		return true, exitStatus(status)
	}
	return true, nil
}

// emulator is the command line for qemu.
func emulator(t target, tmp, root string) ([]string, error) {
	m := machines[t.arch]
	kernels, _ := filepath.Glob(root + "/boot/vmlinu*")
	later, _ := filepath.Glob(root + "/usr/lib/modules/*/vmlinu*")
	if kernels = append(kernels, later...); len(kernels) != 1 {
		return nil, fmt.Errorf("%s has these kernels, not one: %q", root, kernels)
	}
	if _, err := exec.LookPath(m.system); err != nil {
		return nil, fmt.Errorf("%w (in Debian's qemu-system-x86, -arm, -ppc or -misc)", err)
	}
	qemu := append([]string{m.system}, strings.Fields(m.options)...)
	if cpu, _ := os.ReadFile("/proc/cpuinfo"); runtime.GOARCH == "amd64" && regexp.MustCompile(`\b(vmx|svm)\b`).Match(cpu) {
		qemu = append(qemu, "-accel", "kvm") // if it works, for the first that does is taken
	}
	qemu = append(qemu, "-accel", "tcg", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio", "-smp", "2",
		"-kernel", kernels[0], "-initrd", tmp+"/initrd", "-append", "quiet panic=-1 oops=panic secretmem.enable=1 "+m.console)
	if err := disk(tmp+"/disk", 0, 1024); err != nil {
		return nil, err
	}
	qemu = append(qemu, "-drive", "if=virtio,format=raw,cache=unsafe,file="+tmp+"/disk")
	size := fmt.Sprintf("%dM", *memory)
	if t.arch == "amd64" {
		// Where the guest's kernel will begin its data: see pmem.
		if err := disk(tmp+"/dax", 2, 254); err != nil {
			return nil, err
		}
		size += fmt.Sprintf(",slots=1,maxmem=%dM", *memory+256)
		qemu = append(qemu, "-object", "memory-backend-file,id=nv,size=256M,mem-path="+tmp+"/dax", "-device", "nvdimm,memdev=nv")
	}
	qemu = append(qemu, "-m", size)
	if t.arch != "s390x" && t.arch != "386" {
		for node := range 2 {
			qemu = append(qemu, "-object", fmt.Sprintf("memory-backend-ram,id=node%d,size=%dM", node, *memory/2),
				"-numa", fmt.Sprintf("node,nodeid=%d,memdev=node%d,cpus=%d", node, node, node))
		}
	}
	return qemu, nil
}

// disk makes a file with an ext4 file system; in megabytes.
func disk(name string, offset, size int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(offset+size) << 20); err != nil {
		return err
	}
	_, err = run(".", "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", fmt.Sprintf("offset=%d", offset<<20), name, fmt.Sprintf("%dM", size))
	return err
}

// initramfs writes the guest's files: this program as init, the job, the test
// binary, and the module, in which the tests find what surrounds their source.
func initramfs(tmp, root string, args []string) error {
	_, err := run(".", "go", "build", "-o", tmp+"/init", "github.com/mmarinus/mmap/tools/vmtest")
	if err != nil {
		return err
	}
	var a archive
	module, dir, err := surroundings()
	if err != nil {
		return err
	}
	j := job{Args: args[1:], Dir: dir, UID: *uid, Env: []string{"MMAP_TEST_MACHINE=1"}}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "MMAP_") || strings.HasPrefix(v, "GODEBUG=") || strings.HasPrefix(v, "GOMAXPROCS=") {
			j.Env = append(j.Env, v)
		}
	}
	all, err := modules(root, "crc32c_generic", "nfit", "nd_pmem", "ext4", "virtio_pci", "virtio_blk", "loop")
	if err != nil {
		return err
	}
	j.Modules = len(all)
	for i, module := range all {
		a.add(moduleName(i), 0o644, module)
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	a.add("job", 0o644, text)
	for name, path := range map[string]string{"init": tmp + "/init", "test": args[0]} {
		program, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		a.add(name, 0o755, program)
	}
	a.add("src", fs.ModeDir|0o755, nil)
	err = fs.WalkDir(os.DirFS(module), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || path == ".":
			return err
		case d.Name()[0] == '.' && d.IsDir():
			return fs.SkipDir
		case d.IsDir():
			a.add("src/"+path, fs.ModeDir|0o755, nil)
		case d.Type().IsRegular() && !strings.HasSuffix(path, ".test"):
			text, err := os.ReadFile(filepath.Join(module, path))
			if err != nil {
				return err
			}
			a.add("src/"+path, 0o644, text)
		}
		return nil
	})
	a.add("TRAILER!!!", 0, nil)
	return errors.Join(err, os.WriteFile(tmp+"/initrd", a.b.Bytes(), 0o600))
}

// surroundings returns the module around the working directory, where go test runs a
// test binary, and where in it that is.
func surroundings() (module, dir string, err error) {
	here, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	for module = here; ; module = filepath.Dir(module) {
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			dir, err = filepath.Rel(module, here)
			return module, dir, err
		} else if module == filepath.Dir(module) {
			return "", "", fmt.Errorf("%s is in no module: %w", here, err)
		}
	}
}

func moduleName(i int) string { return "module" + strconv.Itoa(i) }

// An archive is what "cpio -H newc" writes, and the kernel unpacks.
type archive struct {
	b     bytes.Buffer
	files int
}

func (a *archive) add(name string, mode fs.FileMode, contents []byte) {
	a.files++
	kind := uint32(syscall.S_IFREG)
	if mode.IsDir() {
		kind = syscall.S_IFDIR
	}
	fmt.Fprintf(&a.b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.files, kind|uint32(mode.Perm()), 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(name)+1, 0, name)
	pad := func() { a.b.Write(make([]byte, -a.b.Len()&3)) }
	pad()
	a.b.Write(contents)
	pad()
}
