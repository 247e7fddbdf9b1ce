//go:build linux

package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"

	"github.com/mmarinus/mmap"
)

const largest = 1 << 30 // bytes of an image, and its alignment: no file makes us map more

// Nothing is writable and executable at once.
var permissions = map[elf.ProgFlag]mmap.Prot{
	elf.PF_R:            mmap.ProtRead,
	elf.PF_R | elf.PF_W: mmap.ProtRead | mmap.ProtWrite,
	elf.PF_R | elf.PF_X: mmap.ProtRead | mmap.ProtExec,
}

// relative is the relocation that adds the base.
var relative = map[elf.Machine]uint64{
	elf.EM_X86_64: uint64(elf.R_X86_64_RELATIVE), elf.EM_AARCH64: uint64(elf.R_AARCH64_RELATIVE),
	elf.EM_RISCV: uint64(elf.R_RISCV_RELATIVE), elf.EM_PPC64: uint64(elf.R_PPC64_RELATIVE),
	elf.EM_S390: uint64(elf.R_390_RELATIVE), elf.EM_LOONGARCH: uint64(elf.R_LARCH_RELATIVE),
}

var page = uint64(os.Getpagesize())

func down(addr uint64) uint64 { return addr &^ (page - 1) }
func up(addr uint64) uint64   { return down(addr + page - 1) }

// A layout is a checked file, and the mapping that it is loaded into.
type layout struct {
	*elf.File
	f                      *os.File
	u                      mmap.Unknown
	low, high, align, base uint64 // low and high are addresses of the file
}

// newLayout checks all that the file says.
func newLayout(f *os.File) (*layout, error) {
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer self.Close()
	file, err := elf.NewFile(f)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	l := &layout{File: file, f: f, align: page}
	foreign := l.Class != elf.ELFCLASS64 || l.Machine != self.Machine || l.Data != self.Data
	if foreign || l.Type != elf.ET_EXEC && l.Type != elf.ET_DYN {
		return nil, fmt.Errorf("no 64-bit program of this processor, but %v %v %v %v", l.Class, l.Data, l.Machine, l.Type)
	}
	size := uint64(st.Size())
	err = l.each(elf.PT_LOAD, func(p *elf.Prog) error {
		_, known := permissions[p.Flags]
		switch {
		case p.Vaddr > 1<<62 || p.Memsz > largest || p.Filesz > p.Memsz:
			return fmt.Errorf("absurd: %d bytes of the file in %d bytes", p.Filesz, p.Memsz)
		case p.Off > size || p.Filesz > size-p.Off:
			return errors.New("the file ends before it")
		case p.Vaddr%page != p.Off%page:
			return fmt.Errorf("offset %#x of the file cannot be mapped there", p.Off)
		case !known || p.Memsz > p.Filesz && p.Flags&elf.PF_W == 0:
			return fmt.Errorf("permissions %v", p.Flags)
		case p.Align > largest || p.Align&(p.Align-1) != 0:
			return fmt.Errorf("alignment %#x", p.Align)
		case l.high > 0 && (down(p.Vaddr) < l.high || p.Vaddr-l.low > largest):
			return errors.New("too far from the first one, overlapping, or out of order")
		case l.high == 0:
			l.low = down(p.Vaddr)
		}
		l.high, l.align = up(p.Vaddr+p.Memsz), max(l.align, p.Align)
		return nil
	})
	if err == nil && l.high == 0 {
		err = errors.New("it has no segments")
	}
	l.low &^= l.align - 1
	return l, err
}

// each calls do with the segments of a kind.
func (l *layout) each(kind elf.ProgType, do func(p *elf.Prog) error) error {
	for _, p := range l.Progs {
		if p.Type == kind {
			if err := do(p); err != nil {
				return fmt.Errorf("%v at %#x: %w", kind, p.Vaddr, err)
			}
		}
	}
	return nil
}

// at returns where n bytes are in the mapping, or -1, which is a bad argument of its methods.
func (l *layout) at(addr, n uint64) int {
	if addr < l.low || addr > l.high || n > l.high-addr {
		return -1
	}
	return int(addr - l.low)
}
