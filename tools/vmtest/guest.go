//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guest is process 1 of a virtual machine. It does the job, tells on the console
// how that ended, and switches the machine off.
func guest() {
	status := 125
	if err := work(&status); err != nil {
		fmt.Println("vmtest:", err)
	}
	fmt.Printf("\n%s%d\n", exitLine, status) // whatever line was begun before
	unix.IoctlSetInt(1, unix.TCSBRK, 1)      // until all is printed
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func work(status *int) error {
	for _, m := range [][3]string{
		{"/dev", "devtmpfs"}, {"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev/shm", "tmpfs", "mode=1777"},
		{"/dev/hugepages", "hugetlbfs"}, {"/sys/fs/cgroup", "cgroup2"}, {"/sys/kernel/debug", "debugfs"},
	} {
		os.MkdirAll(m[0], 0o755)
		err := unix.Mount(m[1], m[0], m[1], 0, m[2])
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENODEV) { // there already, or not in this kernel
			return fmt.Errorf("mount %s: %w", m[0], err)
		}
	}
	// Lines end as they are written.
	if tty, err := unix.IoctlGetTermios(1, unix.TCGETS); err == nil {
		tty.Oflag &^= unix.OPOST
		unix.IoctlSetTermios(1, unix.TCSETS, tty)
	}
	text, err := os.ReadFile("/job")
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	for i := range j.Modules {
		module, err := os.ReadFile("/" + moduleName(i))
		if err != nil {
			return err
		}
		if err := unix.InitModule(module, ""); err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Printf("vmtest: module %d: %v\n", i, err)
		}
		os.Remove("/" + moduleName(i))
	}
	if err := attach("/dev/vda", "/tmp", ""); err != nil {
		return err
	}
	// The first perf event switches code of the kernel on, and the last one off: an emulated
	// processor that runs into code which another is patching ends the kernel. So one event
	// stays, and begins while there is one processor.
	second := func(on string) { os.WriteFile("/sys/devices/system/cpu/cpu1/online", []byte(on), 0) }
	second("0")
	dummy := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Bits: unix.PerfBitDisabled}
	unix.PerfEventOpen(&dummy, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC) // not all kernels have it
	second("1")
	env := append(j.Env, "PATH=/bin", "HOME=/tmp", "MMAP_TEST_VM=1")
	persistent := "no persistent memory"
	if err := pmem(); err == nil {
		persistent = "persistent memory"
		env = append(env, "MMAP_TEST_DAX=/dax")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	nodes, _ := filepath.Glob("/sys/devices/system/node/node*")
	fmt.Printf("\n%s%s, %d-byte pages, %d NUMA nodes, %s\n", startLine, unix.ByteSliceToString(u.Release[:]), os.Getpagesize(), len(nodes), persistent)
	cmd := exec.Command("/test", j.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = filepath.Join("/src", j.Dir), env, os.Stdout, os.Stderr
	if j.UID != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(j.UID), Gid: uint32(j.UID)}}
	}
	err = cmd.Run()
	if cmd.ProcessState != nil && cmd.ProcessState.Exited() {
		*status = cmd.ProcessState.ExitCode()
		return nil
	}
	return err
}

// pmem mounts the file system on persistent memory. DAX needs an account of its
// pages, which a namespace that nobody has set up lacks: that is made first, in
// memory, as "ndctl create-namespace -m fsdax -M mem" does it. The kernel keeps
// the first two megabytes for it.
func pmem() error {
	const bus = "/sys/bus/nd/"
	for _, w := range [][2]string{
		{"drivers/nd_pmem/unbind", "namespace0.0"}, {"devices/pfn0.0/align", "2097152"}, {"devices/pfn0.0/mode", "ram"},
		{"devices/pfn0.0/uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}, {"devices/pfn0.0/namespace", "namespace0.0"}, {"drivers/nd_pmem/bind", "pfn0.0"},
	} {
		if err := os.WriteFile(bus+w[0], []byte(w[1]), 0); err != nil {
			return err
		}
	}
	return attach("/dev/pmem0", "/dax", "dax")
}

// attach mounts a device that the kernel may not have found yet.
func attach(device, dir, options string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var err error
	for range 100 {
		if err = unix.Mount(device, dir, "ext4", 0, options); err == nil {
			return os.Chmod(dir, 0o777|os.ModeSticky)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("mount %s: %w", device, err)
}
