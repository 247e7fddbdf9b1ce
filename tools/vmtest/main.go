//go:build linux

// Vmtest runs tests on other kernels, which it boots in qemu, on other processors,
// which qemu emulates, and as in a container:
//
//	go run ./tools/vmtest [flags] target [arguments of go test]
//
// Without a target it lists them. What it needs is in Debian's packages: apt and
// the archive's keys (debian-archive-keyring), xz-utils, e2fsprogs, and for a
// kernel the qemu-system of its processor. The kernels, and qemu's emulation of
// processors, are downloaded into the user's cache directory, once; delete
// mmap-vmtest there to have newer ones. It takes no privileges.
//
// A virtual machine has two NUMA nodes, persistent memory with a DAX file system
// (in MMAP_TEST_DAX), secret memory, and nothing that a test could harm, which
// MMAP_TEST_VM=1 says. The tests find there what surrounds their source, but no
// go command. Under an emulated processor MMAP_TEST_EMULATED=1 says that the
// kernel is not what it seems; the rest is this machine. As emulation is slow,
// go test gets -short; say -short=false -timeout=2h for the whole. The packages are
// "." and "./systemtest", or those that are named as for go test, by a path that begins
// with a dot; programs that execute themselves cannot do so under user emulation.
//
// The target container is this machine, and downloads nothing. There the tests of all
// packages may do what Docker allows by default: system calls that its seccomp profile
// forbids are EPERM, little memory can be locked, and root has few capabilities and cannot
// write to /sys and /proc/sys. It is a test and no protection.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A target is a kernel, as a package of a Debian release, or without one the
// processor alone: natively, or under user emulation.
type target struct{ name, arch, release, kernel string }

const container = "container" // this machine; see contain

var targets = []target{
	{"5.10", "amd64", "bullseye", "linux-image-cloud-amd64"}, // older than some tests know: they fail where they should skip
	{"6.1", "amd64", "bookworm", "linux-image-cloud-amd64"},
	{"6.12", "amd64", "trixie", "linux-image-cloud-amd64"},
	{"newest", "amd64", "trixie-backports", "linux-image-cloud-amd64"},
	{"386", "386", "", ""},
	{"386-6.1", "386", "bookworm", "linux-image-686-pae"},
	{"arm64", "arm64", "", ""},
	{"arm64-6.1", "arm64", "bookworm", "linux-image-cloud-arm64"},
	{"arm64-newest", "arm64", "trixie-backports", "linux-image-cloud-arm64"},
	{"arm64-16k", "arm64", "trixie-backports", "linux-image-arm64-16k"}, // pages of 16 KiB
	{"ppc64le-6.1", "ppc64le", "bookworm", "linux-image-powerpc64le"},
	{"riscv64", "riscv64", "", ""},
	{"s390x", "s390x", "", ""},
	{"s390x-6.1", "s390x", "bookworm", "linux-image-s390x"},
	{container, runtime.GOARCH, "", ""},
}

// A machine is how Debian and qemu call a processor, and what they need.
type machine struct{ debian, user, system, options, console string }

var machines = map[string]machine{
	"386":     {"i386", "", "qemu-system-i386", "-machine pc -cpu max", "console=ttyS0"},
	"amd64":   {"amd64", "", "qemu-system-x86_64", "-machine pc,nvdimm=on -cpu max", "console=ttyS0"},
	"arm64":   {"arm64", "qemu-aarch64", "qemu-system-aarch64", "-machine virt -cpu max,pauth-impdef=on", ""},
	"ppc64le": {"ppc64el", "" /* user emulation tells no address of a fault */, "qemu-system-ppc64", "-machine pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off", ""},
	"riscv64": {"riscv64", "qemu-riscv64", "", "", ""},
	"s390x":   {"s390x", "qemu-s390x", "qemu-system-s390x", "-machine s390-ccw-virtio -cpu max", ""},
}

var (
	uid    = flag.Int("uid", 0, "run the tests in a virtual machine or as in a container as this user")
	memory = flag.Int("mem", 2048, "megabytes of memory of the virtual machine")
	inner  = flag.Bool("exec", false, "run the test binary that is given; for go test -exec")
)

func main() {
	if os.Args[0] == "/init" {
		guest()
	}
	flag.Parse()
	i := slices.IndexFunc(targets, func(t target) bool { return t.name == flag.Arg(0) })
	if i < 0 {
		fmt.Fprintln(os.Stderr, "usage: go run ./tools/vmtest [flags] target [arguments of go test]")
		flag.PrintDefaults()
		for _, t := range targets {
			fmt.Fprintf(os.Stderr, "  %-14s%s\n", t.name, strings.Join([]string{t.arch, t.release, t.kernel}, " "))
		}
		os.Exit(2)
	}
	t, args := targets[i], flag.Args()[1:]
	var err error
	switch {
	case !*inner:
		err = goTest(t, args)
	case t.name == container:
		err = contain(args)
	case t.kernel != "":
		err = boot(t, args)
	default:
		err = emulate(t, args)
	}
	var status exitStatus
	if errors.As(err, &status) {
		os.Exit(int(status))
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
}

// goTest has go test compile, call this program for each binary, and report.
func goTest(t target, args []string) error {
	arguments := []string{"test", "-json", "-count=1", "-p=1", "-vet=off", "-short"}
	if t.kernel != "" || t.name == container || machines[t.arch].user != "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		arguments = append(arguments, fmt.Sprintf("-exec='%s' -uid=%d -mem=%d -exec %s", self, *uid, *memory, t.name))
	}
	all := slices.Contains(args, "-v")
	args = slices.DeleteFunc(args, func(arg string) bool { return arg == "-v" }) // which would undo what -json does
	switch {
	case slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, ".") }):
	case t.name == container:
		arguments = append(arguments, "./...")
	default:
		arguments = append(arguments, ".", "./systemtest")
	}
	cmd := exec.Command("go", append(arguments, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+t.arch)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	report(t, out, all)
	cmd.Wait()
	fmt.Printf("%s: %v in all\n", t.name, time.Since(start).Round(time.Second))
	if status := cmd.ProcessState.ExitCode(); status != 0 {
		return exitStatus(status)
	}
	return nil
}

var (
	reason = regexp.MustCompile(`\.go:\d+: (.+)`)
	uname  = regexp.MustCompile(`^vmtest: (Linux .*)`)
)

// report prints what go test -json says: the output of what failed, or all, and
// then how many tests passed, were skipped, and why, and failed. A skipped
// subtest is listed, but not counted.
func report(t target, events io.Reader, all bool) {
	type test struct{ Package, Test string }
	output, skipped, kernel := map[test][]string{}, map[string][]string{}, "this kernel"
	var passed, skips int
	var failed []string
	running := map[test]bool{} // and if they have not ended, the program has
	d := json.NewDecoder(events)
	for {
		var e struct {
			Action, Output string
			test
		}
		if d.Decode(&e) != nil {
			break
		}
		if all || e.Action == "build-output" || e.Action == "output" && e.Test == "" {
			fmt.Print(e.Output)
		}
		if m := uname.FindStringSubmatch(e.Output); m != nil {
			kernel = m[1]
		}
		output[e.test] = append(output[e.test], e.Output)
		if e.Test == "" {
			continue
		}
		_, _, sub := strings.Cut(e.Test, "/")
		if e.Action == "run" {
			running[e.test] = true
		} else if e.Action != "output" {
			delete(running, e.test)
		}
		switch e.Action {
		case "pass":
			if !sub {
				passed++
			}
		case "skip":
			if !sub {
				skips++
			}
			why := "no reason"
			for _, line := range output[e.test] {
				if m := reason.FindStringSubmatch(line); m != nil {
					why = m[1]
				}
			}
			skipped[why] = append(skipped[why], e.Test)
		case "fail":
			failed = append(failed, e.Test)
			if !all {
				fmt.Print(strings.Join(output[e.test], ""))
			}
		}
	}
	for t := range running {
		failed = append(failed, t.Test)
		if !all {
			fmt.Print(strings.Join(output[t], ""))
		}
	}
	fmt.Printf("\n%s: %s, %s: %d passed, %d skipped, %d failed\n", t.name, kernel, t.arch, passed, skips, len(failed))
	for _, why := range slices.Sorted(maps.Keys(skipped)) {
		fmt.Printf("  skipped: %s: %s\n", strings.Join(skipped[why], " "), why)
	}
	for _, name := range failed {
		fmt.Println("  failed:", name)
	}
}
