//go:build linux

// Command jit compiles a polynomial with whole coefficients to machine code, and prints
// its value for each number of standard input. The highest power comes first:
//
//	seq 1 10 | go run ./examples/jit 3 0 -2    # 3x² - 2
//
// The problem: memory that can be written and executed at once is what attackers look for.
// Here the code is written while the memory can be written, and called when it can only be
// read and executed. It never is both, and the type of the handle says which it is.
//
// Only a leaf of a few instructions may be called as [Func.Call] does it, one that calls
// nothing, uses no stack and does not loop. The Go runtime knows nothing of it:
//
//   - It has no stack check. The goroutine's stack is small, and moves when it grows.
//   - The runtime cannot walk a stack that has such code on it. A Go function called from
//     there ends the program when the collector, a panic or a growing stack looks. A fault
//     in the code looks like one of the call, and a guard makes it an error; if the code
//     has pushed anything by then, the fault ends the program.
//   - The runtime cannot preempt it: a collection, and all who wait for it, wait until it
//     returns. The profiler counts its time as external code.
//
// Longer code belongs behind cgo, or behind a trampoline in assembly that changes to a
// stack of its own, as wazero has it.
//
// A system can forbid that memory which was writable becomes executable: SELinux without
// execmem, systemd's MemoryDenyWriteExecute, PR_SET_MDWE of prctl(2). Compile then fails
// with EACCES, and nothing is left behind:
//
//	mmap: protect as r-x: permission denied
//
// The other way is a Memfd that is mapped twice and Shared, as ReadWrite to write the code
// and as ReadExec to call it. PR_SET_MDWE allows that; SELinux asks its policy, and
// vm.memfd_noexec can forbid it.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/mmarinus/mmap"
)

// A Func is compiled code, for any number of goroutines. Close gives its memory back.
type Func struct{ mmap.ReadExec }

// Compile returns the code of a polynomial, or errors.ErrUnsupported where there is none.
func Compile(coefficients []int32) (Func, error) {
	text, err := assemble(coefficients)
	if err != nil {
		return Func{}, err
	}
	rw, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(len(text)))
	if err != nil {
		return Func{}, err
	}
	if _, err = rw.WriteAt(text, 0); err == nil {
		var m mmap.ReadExec
		if m, err = mmap.Protect[mmap.ReadExec](rw); err == nil {
			return Func{m}, nil
		}
	}
	return Func{}, errors.Join(err, rw.Close()) // after a failure it is still ours to close
}

// Call returns the value at x; overflow wraps, as in Go. The pin keeps the code in place
// while it runs, whoever calls Close.
func (f Func) Call(x int64) (y int64, err error) {
	pin, err := f.Pin()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, pin.Unpin()) }()
	return enter(pin.Bytes(), x), nil
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "jit:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) (err error) {
	var coefficients []int32
	for _, arg := range args {
		c, err := strconv.ParseInt(arg, 0, 32)
		if err != nil {
			return err
		}
		coefficients = append(coefficients, int32(c))
	}
	f, err := Compile(coefficients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, w := bufio.NewReader(in), bufio.NewWriter(out)
	for err == nil {
		var x, y int64
		if _, err = fmt.Fscan(r, &x); err == nil {
			if y, err = f.Call(x); err == nil {
				fmt.Fprintln(w, y) // Flush has its error
			}
		}
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, w.Flush())
}
