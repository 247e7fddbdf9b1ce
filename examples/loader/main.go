//go:build linux

// Command loader loads a static or static-pie ELF64 program into one mapping and prints what is where.
//
// The problem: a program's segments have to lie at fixed distances from each other, each with
// its own permissions, and nothing else may be mapped between them. So address space for all
// is reserved first, as an Unknown; the segments are placed in it, and changed while they are
// relocated; and at the end each part becomes a handle whose type says what may be done with it.
package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/mmarinus/mmap"
)

var relative = map[elf.Machine]uint64{ // R_*_RELATIVE, the type of the relocations that add the base
	elf.EM_X86_64: 8, elf.EM_AARCH64: 1027, elf.EM_RISCV: 3, elf.EM_PPC64: 22, elf.EM_LOONGARCH: 3, elf.EM_S390: 12,
}
var permissions = map[elf.ProgFlag]mmap.Prot{ // nothing is writable (2) and executable (1) at once
	4: mmap.ProtRead, 4 | 2: mmap.ProtRead | mmap.ProtWrite, 4 | 1: mmap.ProtRead | mmap.ProtExec,
}

func down(addr uint64) int { return int(addr) &^ (os.Getpagesize() - 1) }
func up(addr uint64) int   { return down(addr + uint64(os.Getpagesize()) - 1) }

// A Program is in memory, in parts. What may be done with a part is in its type.
type Program struct {
	Base, Entry uint64 // Base is where address 0 of the file is
	Code        []mmap.ReadExec
	Constants   []mmap.Read
	Data        []mmap.ReadWrite
	Parts       []mmap.Mapping // these and the gaps, in order
}

// LoadELF maps the file privately: it must not change while the program is in use.
func LoadELF(path string) (*Program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, u, err := reserve(f)
	if err != nil {
		return nil, err
	}
	for _, s := range file.Progs { // in this order; another one fails, for lack of permissions
		switch s.Type {
		case elf.PT_LOAD: // pages of the file, and zeros behind them
			zeros, end, prot := s.Vaddr+s.Filesz, s.Vaddr+s.Memsz, permissions[s.Flags]
			err = errors.Join(
				u.Place(int(s.Vaddr), mmap.File(f, int64(s.Off), up(zeros)-int(s.Vaddr)), prot),
				u.ProtectRange(up(zeros), up(end)-up(zeros), prot),
				u.UpdateRange(int(zeros), min(up(zeros), int(end))-int(zeros), func(b []byte) error { clear(b); return nil }))
		case elf.PT_DYNAMIC:
			err = relocate(u, file)
		case elf.PT_GNU_RELRO: // data can begin in its last page
			err = u.ProtectRange(down(s.Vaddr), down(s.Vaddr+s.Memsz)-down(s.Vaddr), mmap.ProtRead)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%v: %w", s.Type, err), u.Close())
		}
	}
	p := &Program{Base: uint64(u.Addr()), Entry: uint64(u.Addr()) + file.Entry}
	return p, p.split(u)
}

// reserve checks what the headers say, and maps as much, from address 0 on, without permissions.
func reserve(f *os.File) (file *elf.File, u mmap.Unknown, err error) {
	st, failed := f.Stat()
	file, err = elf.NewFile(f)
	if err != nil || failed != nil || file.Class != elf.ELFCLASS64 || relative[file.Machine] == 0 ||
		file.Type != elf.ET_EXEC && file.Type != elf.ET_DYN ||
		file.ByteOrder.Uint16([]byte{1, 0}) != binary.NativeEndian.Uint16([]byte{1, 0}) {
		return nil, u, errors.Join(err, failed, errors.New("no ELF64 program of a known machine"))
	}
	size, align, length := 0, uint64(0), uint64(st.Size()) // 0 is no alignment, and an error
	for _, s := range file.Progs {
		if s.Type == elf.PT_INTERP || s.Type == elf.PT_LOAD && (permissions[s.Flags] == 0 || s.Filesz > s.Memsz ||
			s.Off > length || s.Filesz > length-s.Off || s.Vaddr > 1<<30 || s.Memsz > 1<<30 || down(s.Vaddr) < size) {
			return nil, u, fmt.Errorf("bad %v: %+v", s.Type, s.ProgHeader)
		} else if s.Type == elf.PT_LOAD {
			size, align = up(s.Vaddr+s.Memsz), max(align, s.Align, uint64(os.Getpagesize()))
		}
	}
	u, err = mmap.MapUnknown(mmap.Anonymous(size).Align(int(align)), mmap.ProtNone)
	return file, u, err
}

// relocate adds the base to the pointers that the file lists. What else it lists is left to the program's start.
func relocate(u mmap.Unknown, file *elf.File) error {
	table, err := file.DynValue(elf.DT_RELA)
	size, failed := file.DynValue(elf.DT_RELASZ)
	if compact, _ := file.DynValue(36); len(compact) > 0 || len(table) == 0 || len(size) == 0 { // 36: DT_RELR
		return errors.Join(err, failed, errors.New("no relocations, or of an unknown kind"))
	}
	return u.ViewRange(int(table[0]), int(size[0]), func(b []byte) error {
		entries, err := mmap.Slice[elf.Rela64](b)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Info>>32 != 0 {
				return fmt.Errorf("the pointer at %#x needs a symbol", e.Off)
			}
			if e.Info != relative[file.Machine] {
				continue
			}
			pointer := binary.NativeEndian.AppendUint64(nil, uint64(u.Addr())+uint64(e.Addend))
			if _, err = u.WriteAt(pointer, int64(e.Off)); err != nil {
				return err
			}
		}
		return nil
	})
}

// split divides u where permissions change, and gives each part its type.
func (p *Program) split(u mmap.Unknown) error {
	regions, err := u.Regions()
	for _, r := range regions {
		part, rest, err := mmap.Split(u, int(r.End-uint64(u.Addr())))
		if err != nil {
			return errors.Join(err, u.Close(), p.Close())
		}
		u = rest
		var gaps []mmap.None
		switch { // the first that it is
		case is(p, &p.Code, part):
		case is(p, &p.Constants, part):
		case is(p, &p.Data, part):
		case is(p, &gaps, part):
		}
	}
	return errors.Join(err, u.Close()) // nothing is left of it
}

// is keeps a part in the list if the kernel says that it has the permissions of M.
func is[M mmap.Known](p *Program, list *[]M, part mmap.Unknown) bool {
	m, err := mmap.Assert[M](part)
	if err == nil {
		*list, p.Parts = append(*list, m), append(p.Parts, m.Untyped())
	}
	return err == nil
}

// Close unmaps all parts.
func (p *Program) Close() (err error) {
	for _, part := range p.Parts {
		err = errors.Join(err, part.Close())
	}
	return err
}

func main() {
	p, err := LoadELF(os.Args[len(os.Args)-1]) // without an argument, itself
	if err != nil {
		log.Fatal(err)
	}
	for _, part := range p.Parts {
		fmt.Println(part.Regions())
	}
}
