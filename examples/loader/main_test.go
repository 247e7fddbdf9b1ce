//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/procmaps"
)

const goSource = `package main

var zeros [1 << 20]byte
var number int32 = 42

func main() { println(zeros[number], number) }
`

const cSource = `
int zeros[100000];
int number = 42;
int *pointer = &number;            /* relocated data */
int *const constant = &number;     /* relocated, then read-only */
int main(void) { return zeros[number] + *pointer + *constant; }
`

// build returns a program, or skips the test where there is no compiler for it.
func build(t *testing.T, kind string) string {
	t.Helper()
	if strconv.IntSize != 64 {
		t.Skip("a 32-bit processor has no ELF64 programs")
	}
	name := filepath.Join(t.TempDir(), "program")
	source := name + ".c"
	cmd := exec.Command("gcc", kind, "-Wl,-z,relro", "-o", name, source)
	text := cSource
	if kind == "go" {
		source = name + ".go"
		cmd, text = exec.Command("go", "build", "-o", name, source), goSource
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOARCH="+runtime.GOARCH)
	}
	if cmd.Err != nil {
		t.Skip("no compiler: ", cmd.Err)
	}
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("the compiler cannot make a static program: %v\n%s", err, out)
	}
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	file, err := elf.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if file.Machine != self.Machine || file.Data != self.Data { // under user emulation, say
		t.Skip("the compiler makes programs for another processor: ", file.Machine)
	}
	return name
}

var page = uint64(os.Getpagesize())

func TestLoad(t *testing.T) {
	for _, kind := range []string{"go", "-static", "-static-pie"} {
		t.Run(kind, func(t *testing.T) {
			name := build(t, kind)
			before := mmap.ReadStats().Mappings
			image, err := LoadELF(name)
			if err != nil {
				t.Fatal(err)
			}
			file, err := elf.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if kind == "-static-pie" && file.Type != elf.ET_DYN {
				t.Error("the compiler made no static-pie, but ", file.Type)
			}
			compare(t, file, image)
			symbols(t, file, image, kind)
			if err := image.Close(); err != nil {
				t.Error(err)
			}
			if after := mmap.ReadStats().Mappings; after != before {
				t.Errorf("%d mappings are left", after-before)
			}
		})
	}
}

// read returns n bytes at an address of the file, from whichever part has them.
func read(t *testing.T, i *Program, addr, n uint64) []byte {
	t.Helper()
	var out []byte
	addr += i.Base
	for n > 0 {
		piece, ok := make([]byte, min(n, page-addr%page)), false
		at := func(m mmap.Mapping, read func(p []byte, off int64) (int, error)) {
			if off := addr - uint64(m.Addr()); off < uint64(m.Len()) {
				if _, err := read(piece, int64(off)); err != nil {
					t.Fatal(err)
				}
				ok = true
			}
		}
		for _, m := range i.Code {
			at(m.Untyped(), m.ReadAt)
		}
		for _, m := range i.Constants {
			at(m.Untyped(), m.ReadAt)
		}
		for _, m := range i.Data {
			at(m.Untyped(), m.ReadAt)
		}
		if !ok {
			t.Fatalf("nothing is at %#x", addr-i.Base)
		}
		out, addr, n = append(out, piece...), addr+uint64(len(piece)), n-uint64(len(piece))
	}
	return out
}

// compare compares each page with the file and the kernel's table.
func compare(t *testing.T, file *elf.File, i *Program) {
	t.Helper()
	table, err := procmaps.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	relocated, readOnly := relocations(t, file), map[uint64]bool{}
	for _, p := range file.Progs {
		if p.Type == elf.PT_GNU_RELRO {
			for addr := uint64(down(p.Vaddr)); addr < uint64(down(p.Vaddr+p.Memsz)); addr += page {
				readOnly[addr] = true
			}
		}
	}
	mapped := map[uint64]bool{}
	for _, p := range file.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		want := make([]byte, p.Memsz)
		if n, err := p.ReadAt(want[:p.Filesz], 0); n < int(p.Filesz) {
			t.Fatal(err)
		}
		for off, value := range relocated {
			if off >= p.Vaddr && off < p.Vaddr+p.Memsz {
				binary.NativeEndian.PutUint64(want[off-p.Vaddr:], i.Base+value)
			}
		}
		if got := read(t, i, p.Vaddr, p.Memsz); !bytes.Equal(got, want) {
			t.Errorf("the segment at %#x differs", p.Vaddr)
		}
		for addr := uint64(down(p.Vaddr)); addr < p.Vaddr+p.Memsz; addr += page {
			perms := procmaps.Perms(0)
			for flag, bit := range map[elf.ProgFlag]procmaps.Perms{elf.PF_R: procmaps.Read, elf.PF_W: procmaps.Write, elf.PF_X: procmaps.Exec} {
				if p.Flags&flag != 0 {
					perms |= bit
				}
			}
			if readOnly[addr] {
				perms = procmaps.Read
			}
			if r, ok, err := table.At(i.Base + addr); err != nil || !ok || r.Perms != perms {
				t.Fatalf("page %#x is %v, want %v; %v", addr, r, perms, err)
			}
			mapped[addr] = true
		}
	}
	start, end := uint64(i.Parts[0].Addr()), uint64(0)
	for _, part := range i.Parts {
		if end != 0 && uint64(part.Addr()) != end {
			t.Errorf("%v does not follow %#x", part, end)
		}
		end = uint64(part.Addr()) + uint64(part.Len())
		regions, err := part.Regions()
		if err != nil {
			t.Error(err)
		}
		for _, r := range regions {
			if got := r.Perms.String()[:3]; got != part.Prot().String() {
				t.Errorf("%v is %s", part, got)
			}
		}
	}
	for addr := start; addr < end; addr += page {
		if r, _, err := table.At(addr); err != nil || !mapped[addr-i.Base] && r.Perms != 0 {
			t.Fatalf("the gap at %#x is %v, %v", addr-i.Base, r, err)
		}
	}
}

// relocations reads the relocations from the file's sections, which the loader does not use.
func relocations(t *testing.T, file *elf.File) map[uint64]uint64 {
	t.Helper()
	all := map[uint64]uint64{}
	for _, s := range file.Sections {
		if s.Type != elf.SHT_RELA || file.Type != elf.ET_DYN {
			continue
		}
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		entries := make([]elf.Rela64, len(data)/24)
		if err := binary.Read(bytes.NewReader(data), file.ByteOrder, entries); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Info == relative[file.Machine] {
				all[e.Off] = uint64(e.Addend)
			}
		}
	}
	if file.Type == elf.ET_DYN && len(all) == 0 {
		t.Error("a static-pie without relocations")
	}
	return all
}

// symbols looks at the variables of the source.
func symbols(t *testing.T, file *elf.File, i *Program, kind string) {
	t.Helper()
	list, err := file.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	addr := map[string]uint64{}
	for _, s := range list {
		addr[strings.TrimPrefix(s.Name, "main.")] = s.Value
	}
	if n := binary.NativeEndian.Uint32(read(t, i, addr["number"], 4)); n != 42 {
		t.Error("number is ", n)
	}
	if b := read(t, i, addr["zeros"], 400_000); len(bytes.Trim(b, "\x00")) > 0 {
		t.Error("bss is not zero")
	}
	if kind != "-static-pie" {
		return
	}
	for _, name := range []string{"pointer", "constant"} {
		if p := binary.NativeEndian.Uint64(read(t, i, addr[name], 8)); p != i.Base+addr["number"] {
			t.Errorf("%s is %#x, want %#x", name, p, i.Base+addr["number"])
		}
	}
	at := i.Base + addr["constant"]
	for _, m := range i.Data {
		if off := at - uint64(m.Addr()); off < uint64(m.Len()) {
			t.Error("the relocated constant can be written")
		}
	}
}

// damaged loads a copy of a program after change; nothing may be left of it.
func damaged(t *testing.T, program []byte, change func(b []byte) []byte) error {
	t.Helper()
	name := filepath.Join(t.TempDir(), "damaged")
	if err := os.WriteFile(name, change(bytes.Clone(program)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := mmap.ReadStats().Mappings
	image, err := LoadELF(name)
	if err == nil {
		err = errors.Join(image.Close(), errLoads)
	}
	if after := mmap.ReadStats().Mappings; after != before {
		t.Errorf("%v: %d mappings are left", err, after-before)
	}
	return err
}

var errLoads = errors.New("it loads")

// header returns where the fields of the n-th program header of a type are.
func header(t *testing.T, b []byte, kind elf.ProgType, n int) []byte {
	t.Helper()
	order := binary.NativeEndian
	at, count := order.Uint64(b[32:]), int(order.Uint16(b[56:]))
	for i := range count {
		if h := b[at+uint64(i)*56:][:56]; elf.ProgType(order.Uint32(h)) == kind {
			if n == 0 {
				return h
			}
			n--
		}
	}
	t.Skip("the compiler made no ", kind)
	return nil
}

func TestDamaged(t *testing.T) {
	for _, kind := range []string{"go", "-static-pie"} {
		t.Run(kind, func(t *testing.T) {
			program, err := os.ReadFile(build(t, kind))
			if err != nil {
				t.Fatal(err)
			}
			put, last := binary.NativeEndian.PutUint64, 0 // the writable segment
			for binary.NativeEndian.Uint32(header(t, program, elf.PT_LOAD, last)[4:]) != uint32(elf.PF_R|elf.PF_W) {
				last++
			}
			field := func(segment, at int, value uint64) func([]byte) []byte {
				return func(b []byte) []byte { put(header(t, b, elf.PT_LOAD, segment)[at:], value); return b }
			}
			const offset, vaddr, filesz, memsz, align = 8, 16, 32, 40, 48
			for name, test := range map[string]struct {
				change func([]byte) []byte
				says   string
			}{
				"intact":            {func(b []byte) []byte { return b }, "it loads"},
				"empty":             {func(b []byte) []byte { return nil }, "EOF"},
				"text":              {func(b []byte) []byte { return []byte("#!/bin/sh\n" + strings.Repeat("\n", 100)) }, "bad magic"},
				"class":             {func(b []byte) []byte { b[4] = 9; return b }, "class"},
				"other machine":     {func(b []byte) []byte { b[18], b[19] = 1, 1; return b }, "no ELF64 program"},
				"object file":       {func(b []byte) []byte { binary.NativeEndian.PutUint16(b[16:], 1); return b }, ""},
				"no segments":       {func(b []byte) []byte { binary.NativeEndian.PutUint16(b[56:], 0); return b }, ""},
				"huge memsz":        {field(last, memsz, 1<<63), "bad PT_LOAD"},
				"largest memsz":     {field(last, memsz, 1<<64-1), "bad PT_LOAD"},
				"filesz over memsz": {field(last, memsz, 1), "bad PT_LOAD"},
				"huge filesz":       {field(0, filesz, 1<<40), "bad PT_LOAD"},
				"outside the file":  {field(last, offset, 1<<40), "bad PT_LOAD"},
				"largest offset":    {field(last, offset, 1<<64-1<<12), ""},
				"misaligned":        {field(1, vaddr, 0x7ff123), "PT_LOAD"},
				"overlapping":       {field(1, vaddr, 0), ""},
				"far away":          {field(last, vaddr, 1<<61), ""},
				"last address":      {field(last, vaddr, 1<<64-1<<12), ""},
				"alignment":         {field(0, align, 12345), "alignment"},
				"huge alignment":    {field(0, align, 1<<63), "alignment"},
				"writable code": {func(b []byte) []byte {
					binary.NativeEndian.PutUint32(header(t, b, elf.PT_LOAD, 0)[4:], 7)
					return b
				}, "bad PT_LOAD"},
				"bss in code": {field(0, filesz, 1), "permission"},
			} {
				err := damaged(t, program, test.change)
				if err == nil || !strings.Contains(err.Error(), test.says) || test.says == "" && errors.Is(err, errLoads) {
					t.Errorf("%s: %v", name, err)
				}
			}
			for cut := 0; cut < len(program); cut += 1 + len(program)/50 {
				if err := damaged(t, program, func(b []byte) []byte { return b[:cut] }); err == nil || errors.Is(err, errLoads) {
					t.Errorf("cut at %d of %d: %v", cut, len(program), err)
				}
			}
		})
	}
}

// TestDamagedDynamic: what the tables of relocations say is checked, too.
func TestDamagedDynamic(t *testing.T) {
	program, err := os.ReadFile(build(t, "-static-pie"))
	if err != nil {
		t.Fatal(err)
	}
	order := binary.NativeEndian
	dynamic := func(tag elf.DynTag, value uint64) func([]byte) []byte {
		return func(b []byte) []byte {
			h := header(t, b, elf.PT_DYNAMIC, 0)
			for e := b[order.Uint64(h[8:]):]; ; e = e[16:] {
				switch elf.DynTag(order.Uint64(e)) {
				case tag:
					order.PutUint64(e[8:], value)
					return b
				case elf.DT_NULL:
					t.Skip("the compiler made no ", tag)
				}
			}
		}
	}
	relocation := func(at int, value uint64) func([]byte) []byte {
		return func(b []byte) []byte {
			file, err := elf.NewFile(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			order.PutUint64(b[file.Section(".rela.dyn").Offset+uint64(at):], value)
			return b
		}
	}
	code := uint64(0)
	header(t, program, elf.PT_LOAD, 1)
	if h := header(t, program, elf.PT_LOAD, 1); order.Uint32(h[4:]) == 5 {
		code = order.Uint64(h[16:])
	}
	for name, test := range map[string]struct {
		change func([]byte) []byte
		match  error
	}{
		"table outside":      {dynamic(elf.DT_RELA, 1<<50), os.ErrInvalid},
		"table below":        {dynamic(elf.DT_RELA, 1<<64-8), os.ErrInvalid},
		"table too long":     {dynamic(elf.DT_RELASZ, 1<<40), os.ErrInvalid},
		"table misaligned":   {dynamic(elf.DT_RELA, 0x389), os.ErrInvalid},
		"less than an entry": {dynamic(elf.DT_RELASZ, 23), os.ErrInvalid},
		"target outside":     {relocation(0, 1<<40), nil},
		"target below":       {relocation(0, 1<<64-8), os.ErrInvalid},
		"target in code":     {relocation(0, code), mmap.ErrPermission},
		"needs a symbol":     {relocation(8, 1<<32|6), nil},
		"RELRO outside": {func(b []byte) []byte {
			order.PutUint64(header(t, b, elf.PT_GNU_RELRO, 0)[40:], 1<<40)
			return b
		}, os.ErrInvalid},
		"RELRO wraps": {func(b []byte) []byte {
			order.PutUint64(header(t, b, elf.PT_GNU_RELRO, 0)[16:], 1<<64-1<<12)
			return b
		}, os.ErrInvalid},
		"no section headers": {func(b []byte) []byte { clear(b[40:48]); clear(b[58:64]); return b }, nil},
		"DT_RELR": {func(b []byte) []byte {
			h := header(t, b, elf.PT_DYNAMIC, 0)
			order.PutUint64(b[order.Uint64(h[8:]):], 36) // in place of some other entry
			return b
		}, nil},
	} {
		err := damaged(t, program, test.change)
		if err == nil || errors.Is(err, errLoads) || test.match != nil && !errors.Is(err, test.match) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRandom damages headers, dynamic entries and relocations at random: no crash, and
// nothing is left behind.
func TestRandom(t *testing.T) {
	program, err := os.ReadFile(build(t, "-static-pie"))
	if err != nil {
		t.Fatal(err)
	}
	h := header(t, program, elf.PT_DYNAMIC, 0)
	dynamic := int(binary.NativeEndian.Uint64(h[8:]))
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	loaded := 0
	for range rounds {
		err := damaged(t, program, func(b []byte) []byte {
			for range 1 + rand.IntN(3) {
				at := [...]int{rand.IntN(64), 64 + rand.IntN(12*56), dynamic + rand.IntN(400), 0x388 + rand.IntN(1000)}[rand.IntN(4)]
				b[at] ^= byte(1 << rand.IntN(8))
			}
			return b
		})
		if errors.Is(err, errLoads) {
			loaded++
		}
	}
	t.Logf("%d of %d could be loaded", loaded, rounds)
}

// TestTruncated: a file that is shorter than it was when its headers were read.
func TestTruncated(t *testing.T) {
	name := build(t, "go")
	p, err := LoadELF(name)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := os.Truncate(name, int64(page)); err != nil {
		t.Fatal(err)
	}
	for _, m := range p.Constants {
		if _, err := m.ReadAt(make([]byte, 1), int64(m.Len())-1); !errors.Is(err, mmap.ErrTruncated) {
			t.Error(err)
		}
	}
}

// TestMain lets the test binary be the program.
func TestMain(m *testing.M) {
	if os.Getenv("LOADER_IS_THE_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	run := func(name string) (string, error) {
		cmd := exec.Command(os.Args[0], name)
		cmd.Env = append(os.Environ(), "LOADER_IS_THE_PROGRAM=1", "GORACE=atexit_sleep_ms=0")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run(build(t, "go"))
	if err != nil || strings.Count(out, " r-xp ") != 1 || !strings.Contains(out, " rw-p ") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run(filepath.Join(t.TempDir(), "missing")); err == nil || !strings.Contains(out, "no such file") {
		t.Errorf("%v\n%s", err, out)
	}
	if shell, err := exec.LookPath("sh"); err == nil {
		if _, err := LoadELF(shell); err == nil {
			t.Error("a program that needs a dynamic linker was loaded")
		}
	}
}
