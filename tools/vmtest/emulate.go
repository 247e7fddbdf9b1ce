//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// What qemu's emulation of a processor does not do as a kernel does; each of the
// tests passes on a kernel of that processor.
var beyond = map[string]string{
	"user emulation has a wrong address for SIGBUS": `TestTruncated TestTruncatedUnlinked TestNestedGuards TestFullDisk TestGuardCause
		TestFaultElsewhere TestLandscapeEndOfFile TestMemfdTruncation TestTruncatedHumble TestOperations FuzzOperations ExampleGuard ExampleFaultError
		TestLockLimitOperations TestFaultPlace TestGuardAll TestReadStats TestLentIsKnown ExampleGuardAll`,
	"user emulation ignores advice": `TestAdvise TestAdviceWidens TestWillNeed TestPageOut TestFork TestDiscard TestDiscardLocked TestFree TestPunch TestPunchLastPage
		TestGuardPages TestGuardPagesStay TestGuardPagesFile TestLossesHugePages TestLandscapeHole TestPrefault TestPrefaultPermission
		TestForeignProtect TestPrefaultFault TestPrefaultFullDisk TestCollapse FuzzRanges ExampleMapping_Prefault ExampleMapping_Advise ExampleReadWrite_InstallGuardPages`,
	"user emulation has no mlock2(2)": `TestAdviceRefused TestDescriptorLimit TestRemapLocked TestLockResident TestLock TestLockLimit TestLockRange TestLockPermission TestLockTruncated TestLockTruncatedPrivileged
		TestLockOverLimit TestAreaLimit TestRangeNoAllocation TestRemapAreas TestRemapAddressLimit TestRemapMapLimit TestLandscapeProtect ExampleMapping_Lock`,
	"user emulation tells little of a mapping in smaps":                                `TestCreationFlags TestHugePageSizes TestHugePagesRunOut TestMemfdHuge TestSync`,
	"user emulation loses flags of mmap(2)":                                            `TestBadSpecs TestHugePageErrors TestPopulate TestPopulateCopies`,
	"user emulation has no RLIMIT_AS and RLIMIT_DATA, and ends at vm.max_map_count":    `TestAddressSpaceLimit TestDataLimit TestMapLimit`,
	"user emulation has no file system in user space":                                  `TestFUSE TestFUSEUnreadable TestFUSEDirect TestDeniedFUSE TestLockUnreadable TestNobodyElseWaits TestOntoRefusedLate`,
	"user emulation dies of faults, or does not tell their address":                    `TestPageComesBack TestCauseOfKind TestNotDumpable`,
	"user emulation locks no pages on fault":                                           `TestLockNoLimit TestOntoHeapFails`,
	"user emulation lets the kernel know nothing of execution":                         `TestNoexecMount`,
	"user emulation does not show all that is unmapped while other threads map":        `TestCollectorBeside`,
	"user emulation divides areas, and lacks some, in the table of the kernel's areas": `TestFailWhole FuzzMap FuzzSpecs TestConcurrent`,
}

// emulate runs a test binary under qemu's emulation of a processor.
func emulate(t target, args []string) error {
	root, err := fetch(machines[runtime.GOARCH].debian, "trixie", "qemu-user")
	if err != nil {
		return err
	}
	binary, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	// The kernel cannot run such a program, so the tests' children need a name
	// for it that it can: a script.
	script := binary + ".sh"
	text := fmt.Sprintf("#!/bin/sh\nexec '%s' -0 \"$0\" '%s' \"$@\"\n", filepath.Join(root, "usr/bin", machines[t.arch].user), binary)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		return err
	}
	all := "."
	for _, arg := range args {
		if run, ok := strings.CutPrefix(arg, "-test.run="); ok {
			all, _, _ = strings.Cut(run, "/")
		}
	}
	list, err := run(".", script, "-test.list="+all)
	if err != nil {
		return err
	}
	var skip []string
	for why, tests := range beyond {
		for _, test := range strings.Fields(tests) {
			if slices.Contains(strings.Fields(list), test) {
				// As the test itself would say it, for test2json.
				fmt.Printf("\x16=== RUN   %s\n    emulate.go:0: %s\n\x16--- SKIP: %s (0.00s)\n", test, why, test)
				skip = append(skip, test)
			}
		}
	}
	os.Unsetenv("MMAP_TEST_MACHINE") // the pool of huge pages is the host's
	args = append(append([]string{script}, args[1:]...), "-test.skip=^("+strings.Join(skip, "|")+")$")
	return syscall.Exec(script, args, append(os.Environ(), "MMAP_TEST_EMULATED=1"))
}
