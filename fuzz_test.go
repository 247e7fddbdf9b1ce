package mmap_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// FuzzOperations is [TestOperations] with sequences that the fuzzer chooses. A
// sequence is a stream of random bits: its text says nothing to a reader.
func FuzzOperations(f *testing.F) {
	for seed := range uint64(8) {
		// Different sequences, the later ones longer: mutations of a short one
		// are tried faster, those of a long one get further.
		random := rand.New(rand.NewPCG(seed, 0))
		b := make([]byte, 1024<<(seed/2))
		for i := 0; i < len(b); i += 8 {
			// Small numbers, as the engine's own: most draws are from short lists.
			binary.LittleEndian.PutUint64(b[i:], random.Uint64()>>random.IntN(64))
		}
		f.Add(b)
	}
	quick(f)
	f.Fuzz(rapid.MakeFuzz(operations(f)))
}

// quick bounds how long the engine tries to make an interesting input shorter,
// unless the command says: by default a minute each, in which nothing else goes
// on, for the attempts grow with the square of the length.
func quick(f *testing.F) {
	const name = "test.fuzzminimizetime"
	said := false
	flag.Visit(func(g *flag.Flag) { said = said || g.Name == name })
	if !said {
		if err := flag.Set(name, "200ms"); err != nil {
			f.Fatal(err)
		}
	}
}

// What FuzzMap maps.
const (
	noSource = iota
	anonymousMemory
	fileRange
	fileReadOnly
	descriptorRange
	sealedMemfd
	wholePath
	secretMemory
	nilFile
	closedFile
	noDescriptor
	sources
)

// Where FuzzMap maps it.
const (
	anywhere = iota
	near
	at
	atInArena
	ontoInArena
	twice
	placements
)

// The bits of FuzzMap's options.
const (
	optShared = 1 << iota
	optAlign
	optReserve
	optPopulate
	optLock
	optHuge
	optUnknown
	optOnFault
	optNoReserve
	optLow
	optDroppable
	optCached
	optSynchronous
)

// mapArgs are the arguments of FuzzMap.
type mapArgs struct {
	source, placement, prot uint8
	options                 uint16
	size, offset            int64
	addr                    uint64
	align, reserve, huge    int64
}

func (a mapArgs) has(option uint16) bool { return a.options&option != 0 }

// FuzzMap maps with any arguments: either there is a clean error, or the kernel
// confirms the mapping.
func FuzzMap(f *testing.F) {
	page := int64(onePage)
	add := func(a mapArgs) {
		f.Add(a.source, a.placement, a.prot, a.options, a.size, a.offset, a.addr, a.align, a.reserve, a.huge)
	}
	add(mapArgs{source: noSource})                                                                               // the zero Spec
	add(mapArgs{source: anonymousMemory, prot: 3, size: page})                                                   // the plainest
	add(mapArgs{source: anonymousMemory, prot: 3})                                                               // empty
	add(mapArgs{source: anonymousMemory, prot: 1, size: -1})                                                     // negative
	add(mapArgs{source: anonymousMemory, prot: 1, size: math.MaxInt64})                                          // rounding up overflows
	add(mapArgs{source: anonymousMemory, prot: 8, size: page, options: optUnknown})                              // no such permission
	add(mapArgs{source: anonymousMemory, prot: 3, size: 1, reserve: 5 * page, options: optReserve | optShared})  // a shared reserve
	add(mapArgs{source: anonymousMemory, prot: 3, size: 2, reserve: 1, options: optReserve})                     // a capacity below the size
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, align: 1 << 21, options: optAlign})                // map more, trim
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, align: 48, options: optAlign})                     // no power of two
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, align: math.MinInt64, options: optAlign})          // a single bit, and negative
	add(mapArgs{source: anonymousMemory, prot: 3, size: 1, options: optHuge})                                    // rounds up, or the pool is empty
	add(mapArgs{source: anonymousMemory, prot: 7, size: page, options: optPopulate | optLock})                   // prefaulted and locked
	add(mapArgs{source: anonymousMemory, prot: 0, size: page, options: optLock | optReserve, reserve: 3 * page}) // locked without access
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: at})                                    // address 0
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optLow | optAlign, align: 1 << 21})
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, reserve: 9 * page, options: optDroppable | optReserve})
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optNoReserve | optOnFault})
	add(mapArgs{source: fileRange, prot: 1, size: 3 * page, offset: 7, options: optCached})
	add(mapArgs{source: fileRange, prot: 3, size: page, options: optShared | optSynchronous})                       // not on persistent memory
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: at, addr: math.MaxUint64 &^ 0xfffff})      // the end of the address space
	add(mapArgs{source: anonymousMemory, prot: 3, size: 2 * page, placement: atInArena, addr: 31 * uint64(page)})   // onto a page that is taken
	add(mapArgs{source: anonymousMemory, prot: 3, size: 2 * page, placement: ontoInArena, addr: 4 * uint64(page)})  // replaces
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: near, addr: 0x12_3456_7891})               // a hint to be rounded
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: twice, addr: 1 << 30})                     // two placements
	add(mapArgs{source: fileRange, prot: 1, size: 100, offset: page + 7})                                           // an unaligned offset
	add(mapArgs{source: fileRange, prot: 1, size: 9 * page, offset: page})                                          // past the end of the file
	add(mapArgs{source: fileRange, prot: 1, size: 1, offset: math.MaxInt64})                                        // the largest offset
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: -1})                                                // a negative one
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 7, placement: atInArena, addr: 7})                  // congruent
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 7, placement: atInArena, addr: 8})                  // not congruent
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 7, align: 64, options: optAlign})                   // no alignment is possible
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 64, align: 64, options: optAlign})                  // and here it is
	add(mapArgs{source: fileReadOnly, prot: 3, size: page, options: optShared})                                     // what the file does not allow
	add(mapArgs{source: fileReadOnly, prot: 2, size: page, options: optShared | optReserve, reserve: 2 * page})     // the same, by mprotect
	add(mapArgs{source: descriptorRange, prot: 3, size: page, offset: page, options: optShared})                    // by number
	add(mapArgs{source: wholePath, prot: 3, options: optShared})                                                    // opened for writing
	add(mapArgs{source: secretMemory, prot: 3, size: page})                                                         // locked and shared
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optHuge, huge: 2 << 20})                     // 2 MiB
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optHuge, huge: 3 << 20})                     // no such size
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optHuge, huge: math.MinInt64})               // a single bit, and negative
	add(mapArgs{source: anonymousMemory, prot: 255, size: page, options: optUnknown})                               // more bits than there are permissions
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: at, addr: 1<<47 - uint64(page)})           // the last page of amd64
	add(mapArgs{source: anonymousMemory, prot: 3, size: 2 * page, placement: at, addr: 1<<47 - uint64(page)})       // and one more
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: near, addr: math.MaxUint64})               // a hint that cannot be rounded up
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 7, placement: at, addr: math.MaxUint64 - 4088})     // congruent, and at the end
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: math.MaxInt64 - page + 1})                          // ends one past the largest offset
	add(mapArgs{source: descriptorRange, prot: 1, size: page, offset: math.MaxInt64 - page})                        // ends at it, within a page
	add(mapArgs{source: fileRange, prot: 1, size: page, reserve: math.MaxInt64, offset: page, options: optReserve}) // the capacity ends past it
	add(mapArgs{source: sealedMemfd, prot: 3, size: page, offset: 9})                                               // private, for the file is sealed
	add(mapArgs{source: sealedMemfd, prot: 2, size: page, options: optShared})                                      // what the seal forbids
	add(mapArgs{source: wholePath, prot: 1, options: optReserve, reserve: 9 * page})                                // a file, and room for more of it
	add(mapArgs{source: nilFile, prot: 1, size: 1})                                                                 // no file
	add(mapArgs{source: closedFile, prot: 1, size: 1})                                                              // no file any more
	add(mapArgs{source: noDescriptor, prot: 1, size: 1})                                                            // EBADF

	dir := f.TempDir()
	name := filepath.Join(dir, "file")
	contents := bytes.Repeat([]byte("0123456789abcdef"), 3*onePage/16)
	if err := os.WriteFile(name, contents, 0o600); err != nil {
		f.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	readOnly, err := os.Open(name)
	if err != nil {
		f.Fatal(err)
	}
	gone, err := os.Open(name)
	if err != nil {
		f.Fatal(err)
	}
	gone.Close()
	sealed, err := mmap.Memfd("sealed", int64(len(contents)), 0)
	if err == nil {
		_, err = sealed.Write(contents)
	}
	if err == nil {
		err = mmap.AddSeals(sealed, mmap.SealShrink|mmap.SealGrow|mmap.SealWrite)
	}
	if err != nil {
		f.Fatal(err)
	}
	table, err := procmaps.Open(0)
	if err != nil {
		f.Fatal(err)
	}
	// The upper half of the arena begins with a page that is taken.
	own := newArena(f)
	taken, err := mmap.Map[mmap.None](mmap.Anonymous(onePage).At(own.page(arenaPages / 2)))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		taken.Close()
		table.Close()
		file.Close()
		readOnly.Close()
		sealed.Close()
	})
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil {
		f.Fatal(err)
	}

	f.Fuzz(func(t *testing.T, source, placement, prot uint8, options uint16, size, offset int64, addr uint64, align, reserve, huge int64) {
		a := mapArgs{source % sources, placement % placements, prot, options, size, offset, addr, align, reserve, huge}
		if int64(int(huge)) != huge || int64(int(size)) != size || int64(int(align)) != align || int64(int(reserve)) != reserve || uint64(uintptr(addr)) != addr {
			t.Skip("wider than an int of this processor")
		}
		if a.source == wholePath {
			a.size, a.offset = int64(len(contents)), 0
		}
		if a.source == anonymousMemory || a.source == secretMemory {
			a.offset = 0
		}
		if !a.has(optReserve) {
			a.reserve = a.size
		}
		// Nothing of this may eat the memory of the machine.
		const small = 1 << 20
		if a.size > small || a.reserve > small {
			a.options &^= optPopulate | optLock | optOnFault
			if a.source == secretMemory {
				t.Skip("secret memory is locked with its whole capacity")
			}
		}
		var spec mmap.Spec
		switch n := int(a.size); a.source {
		case anonymousMemory:
			spec = mmap.Anonymous(n)
		case fileRange:
			spec = mmap.File(file, a.offset, n)
		case fileReadOnly:
			spec = mmap.File(readOnly, a.offset, n)
		case descriptorRange:
			spec = mmap.FD(int(file.Fd()), a.offset, n)
		case sealedMemfd:
			spec = mmap.File(sealed, a.offset, n)
		case wholePath:
			spec = mmap.Path(name)
		case secretMemory:
			spec = mmap.Secret(n)
		case nilFile:
			spec = mmap.File(nil, a.offset, n)
		case closedFile:
			spec = mmap.File(gone, a.offset, n)
		case noDescriptor:
			spec = mmap.FD(-1, a.offset, n)
		}
		lead := int(max(a.offset, 0) % int64(onePage))
		where := uintptr(a.addr)
		switch a.placement {
		case atInArena:
			where = own.start + where%(own.end-own.start)
		case ontoInArena:
			// It replaces what is there: only within the lower half.
			half := uintptr(arenaPages / 2 * onePage)
			if where %= half; a.size < 0 || a.reserve < a.size || uint64(a.reserve)+uint64(where)+uint64(2*onePage) > uint64(half) || a.has(optHuge) {
				t.Skip("does not fit into the memory that may be replaced")
			}
			where += own.start
		}
		const goHeap, goHeapEnd, hugePage = 0xc0_0000_0000, 0xe0_0000_0000, 2 << 30
		if a.placement != anywhere && uint64(where) < goHeapEnd && uint64(where)+uint64(max(a.size, a.reserve, 0))+hugePage > goHeap {
			t.Skip("the Go heap of a race build")
		}
		switch a.placement {
		case near:
			spec = spec.Near(where)
		case at, atInArena:
			spec = spec.At(where)
		case ontoInArena:
			spec = spec.UnsafeOnto(where)
		case twice:
			spec = spec.Near(where).At(where)
		}
		for _, o := range []struct {
			option uint16
			with   func(mmap.Spec) mmap.Spec
		}{
			{optShared, mmap.Spec.Shared},
			{optAlign, func(s mmap.Spec) mmap.Spec { return s.Align(int(a.align)) }},
			{optReserve, func(s mmap.Spec) mmap.Spec { return s.Reserve(int(a.reserve)) }},
			{optPopulate, mmap.Spec.Populate},
			{optLock, mmap.Spec.Lock},
			{optHuge, func(s mmap.Spec) mmap.Spec { return s.HugePages(int(a.huge)) }},
			{optOnFault, mmap.Spec.LockOnFault},
			{optNoReserve, mmap.Spec.NoReserve},
			{optLow, mmap.Spec.Low},
			{optDroppable, mmap.Spec.Droppable},
			{optCached, mmap.Spec.PopulateCached},
			{optSynchronous, mmap.Spec.Synchronous},
		} {
			if a.has(o.option) {
				spec = o.with(spec)
			}
		}
		kind, p := unknownKind, mmap.Prot(a.prot)
		if !a.has(optUnknown) && a.prot < 8 {
			kind = modelKinds[a.prot]
		}
		h, err := kind.create(spec, p)
		bad := a.source == noSource || a.source == nilFile || a.size < 0 || a.offset < 0 || p > 7 || a.placement == twice ||
			a.placement == at && where < uintptr(onePage) || a.has(optReserve) && a.reserve < a.size ||
			a.has(optAlign) && (a.align <= 0 || a.align&(a.align-1) != 0 || a.source < secretMemory && int64(lead)%a.align != 0) ||
			a.has(optDroppable) && (a.source != anonymousMemory || a.options&(optShared|optHuge|optLock|optOnFault) != 0) ||
			a.has(optHuge) && (a.source != anonymousMemory || a.huge != 0 && (a.huge <= int64(onePage) || a.huge&(a.huge-1) != 0)) ||
			a.has(optSynchronous) && (!a.has(optShared) || a.source == anonymousMemory || a.source == secretMemory || a.placement == at || a.placement == atInArena) ||
			a.has(optLow) && a.placement >= at
		if err != nil {
			inert(t, h, mmap.ErrClosed)
			checkMapError(t, err, a, bad)
			return
		}
		defer func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
			walk(t, table, own.start, own.page(arenaPages/2), func(at uintptr, area procmaps.Region) {
				t.Fatalf("page %#x is mapped after Close: %v", at, area)
			})
		}()
		forbidden := (a.source == fileReadOnly || a.source == sealedMemfd) && a.has(optShared) && p&mmap.ProtWrite != 0 && a.size > 0
		if bad || forbidden || a.source == closedFile || a.source == noDescriptor {
			t.Fatalf("%v as %v: %v", spec, p, h)
		}
		if h.Len() != int(a.size) || h.Cap() != int(a.reserve) || h.Prot() != p || h.Addr()%uintptr(onePage) != uintptr(lead) {
			t.Fatalf("%v: %v, Cap %d", spec, h, h.Cap())
		}
		if a.placement >= at && h.Addr() != where || a.has(optAlign) && a.reserve > 0 && h.Addr()%uintptr(a.align) != 0 {
			t.Fatalf("%v is misplaced: %v", spec, h)
		}
		if a.has(optLow) && a.reserve > 0 && uint64(h.Addr())+uint64(a.reserve) > 1<<31 {
			t.Fatalf("%v is not low: %v", spec, h)
		}
		confirm(t, table, h, a, lead)
		if r, ok := h.(io.ReaderAt); ok && p&mmap.ProtRead != 0 {
			// What is in the file is there; what is not is a fault.
			got := make([]byte, min(a.size, 4*int64(onePage)))
			n, err := r.ReadAt(got, 0)
			want := make([]byte, len(got))
			if a.source >= fileRange && a.source <= wholePath {
				want = want[:min(max(int64(len(contents))-a.offset, 0), int64(len(got)))]
				copy(want, contents[min(a.offset, int64(len(contents))):])
			}
			if a.has(optHuge) && a.has(optNoReserve) && errors.Is(err, mmap.ErrFault) {
				return // the pool is empty, which is seen now
			}
			if n != len(want) || !bytes.Equal(got[:n], want) || n < len(got) != errors.Is(err, mmap.ErrTruncated) {
				t.Fatalf("%v: read %d bytes, %v, want %d", h, n, err, len(want))
			}
		}
	})
}

// checkMapError fails unless err is one that Map documents, and there is a
// reason for it.
func checkMapError(t *testing.T, err error, a mapArgs, bad bool) {
	t.Helper()
	var errno unix.Errno
	if !errors.As(err, &errno) && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("%v has no errno", err)
	}
	if errors.Is(err, os.ErrInvalid) != errors.Is(err, unix.EINVAL) {
		t.Fatalf("%v: EINVAL and os.ErrInvalid are not the same", err)
	}
	// A range past the largest offset is found before a bad alignment.
	if bad && !errors.Is(err, os.ErrInvalid) && errno != unix.EOVERFLOW && errno != unix.EBADF {
		t.Fatalf("%v is no bad argument", err)
	}
	if a.source == closedFile && !bad && !a.has(optHuge) && errno != unix.EOVERFLOW && (!errors.Is(err, os.ErrClosed) || errno != unix.EBADF) {
		t.Fatalf("a closed file: %v", err)
	}
	const rare = optLock | optHuge | optAlign | optOnFault | optLow | optDroppable | optSynchronous
	usual := a.source == anonymousMemory || a.source == fileRange || a.source == descriptorRange || a.source == wholePath
	if usual && !bad && a.placement <= near && a.options&rare == 0 && a.prot&uint8(mmap.ProtExec) == 0 &&
		max(a.size, a.reserve) < 1<<24 && a.offset < 1<<40 {
		t.Fatalf("no reason for %v", err)
	}
}

// confirm asks the kernel whether it has what the mapping says.
func confirm(t *testing.T, table *procmaps.Table, h mmap.Mapping, a mapArgs, lead int) {
	t.Helper()
	if a.reserve == 0 {
		return
	}
	granule := uint64(onePage)
	up := func(n uint64) uint64 { return (n + granule - 1) &^ (granule - 1) }
	start := uint64(h.Addr()) - uint64(lead)
	data, end := start+up(uint64(lead)+uint64(a.size)), start+up(uint64(lead)+uint64(a.reserve))
	if a.size == 0 {
		data = start
	}
	want := procmaps.Perms(a.prot)
	shared := a.has(optShared) || a.source == secretMemory
	for at := start; at < end; {
		area, ok, err := table.At(at)
		if err != nil || !ok {
			t.Fatalf("%v: nothing is mapped at %#x: %v", h, at, err)
		}
		perms, stop := want, data
		if at >= data {
			perms, stop = 0, end
		}
		if a.has(optHuge) && at >= data {
			return // huge pages are rounded up into the reserve
		}
		if shared {
			perms |= procmaps.Shared
		}
		if area.Perms != perms {
			t.Fatalf("%v: %#x is %v, want %v", h, at, area.Perms, perms)
		}
		isFile := a.source >= fileRange && a.source <= wholePath
		if isFile && area.Offset+at-area.Start != uint64(a.offset)-uint64(lead)+at-start {
			t.Fatalf("%v: %#x is at offset %#x of the file", h, at, area.Offset+at-area.Start)
		}
		at = min(area.End, stop)
	}
}

type padded struct {
	A uint16
	B uint8
	C [2]int32
	D float64
	E int8
}

// FuzzSlice compares Slice with encoding/binary.
func FuzzSlice(f *testing.F) {
	f.Add([]byte(nil), uint8(0))                       // nothing is valid
	f.Add([]byte{1}, uint8(0))                         // fewer than one value, but for bytes
	f.Add(bytes.Repeat([]byte{1, 2, 3}, 16), uint8(0)) // whole values, and remainders
	f.Add(bytes.Repeat([]byte{0xff}, 64), uint8(0))    // not-a-number
	f.Add(bytes.Repeat([]byte{5}, 40), uint8(1))       // aligned for bytes alone
	f.Add(bytes.Repeat([]byte{6}, 40), uint8(2))       // aligned for two bytes
	f.Add(bytes.Repeat([]byte{7}, 40), uint8(4))       // aligned for four
	f.Fuzz(func(t *testing.T, contents []byte, off uint8) {
		if len(contents) > 100 {
			t.Skip("no more to see than in a few values")
		}
		// Memory of this size is aligned for every type.
		off %= 16
		b := make([]byte, 64+len(contents))[off:][:len(contents)]
		copy(b, contents)
		sliced[byte](t, b)
		sliced[int16](t, b)
		sliced[uint32](t, b)
		sliced[float32](t, b)
		sliced[uint64](t, b)
		sliced[complex128](t, b)
		sliced[[3]uint16](t, b)
		sliced[padded](t, b)
		sliced[[2]padded](t, b)
		refusedSlice[bool](t, b)
		refusedSlice[*byte](t, b)
		refusedSlice[string](t, b)
		refusedSlice[[]byte](t, b)
		refusedSlice[any](t, b)
		refusedSlice[struct{}](t, b)
		refusedSlice[[0]int](t, b)
		refusedSlice[[2]struct {
			A int
			B [1]bool
		}](t, b)
		refusedSlice[struct {
			A int
			B func()
		}](t, b)
	})
}

// sliced compares Slice[T](b) with what encoding/binary makes of each value.
func sliced[T any](t *testing.T, b []byte) {
	t.Helper()
	got, err := mmap.Slice[T](b)
	typ := reflect.TypeFor[T]()
	size := int(typ.Size())
	first := reflect.ValueOf(b).Pointer()
	if misaligned := first%uintptr(typ.Align()) != 0; len(b) > 0 && (misaligned || len(b) < size) {
		if got != nil || !errors.Is(err, os.ErrInvalid) || !errors.Is(err, unix.EINVAL) {
			t.Fatalf("Slice[%v] of %d bytes at %#x: %d values, %v", typ, len(b), first, len(got), err)
		}
		return
	}
	if err != nil || len(got) != len(b)/size || cap(got) != len(got) {
		t.Fatalf("Slice[%v] of %d bytes: %d values, cap %d, %v", typ, len(b), len(got), cap(got), err)
	}
	for i, v := range got {
		have, err := binary.Append(nil, binary.NativeEndian, v)
		if err != nil {
			t.Fatal(err)
		}
		if want := unpadded(nil, typ, b[i*size:(i+1)*size]); !bytes.Equal(have, want) {
			t.Fatalf("Slice[%v]: value %d is % x, want % x", typ, i, have, want)
		}
	}
	if len(got) > 0 && reflect.ValueOf(got).Pointer() != first {
		t.Fatalf("Slice[%v] is a copy", typ)
	}
}

// unpadded appends the bytes of a value without its padding, which is how
// encoding/binary writes it.
func unpadded(to []byte, typ reflect.Type, b []byte) []byte {
	switch typ.Kind() {
	case reflect.Array:
		for i := range typ.Len() {
			n := int(typ.Elem().Size())
			to = unpadded(to, typ.Elem(), b[i*n:(i+1)*n])
		}
		return to
	case reflect.Struct:
		for i := range typ.NumField() {
			field := typ.Field(i)
			to = unpadded(to, field.Type, b[field.Offset:field.Offset+field.Type.Size()])
		}
		return to
	}
	return append(to, b...)
}

// refusedSlice fails unless T is refused, whatever the bytes.
func refusedSlice[T any](t *testing.T, b []byte) {
	t.Helper()
	if got, err := mmap.Slice[T](b); got != nil || !errors.Is(err, os.ErrInvalid) {
		t.Fatalf("Slice[%v] of %d bytes: %d values, %v", reflect.TypeFor[T](), len(b), len(got), err)
	}
}

// What FuzzRanges maps.
const (
	privateMemory = iota
	sharedMemory
	privateFile
	sharedFile
	rangeSources
)

// rangeArgs are the arguments of FuzzRanges.
type rangeArgs struct {
	op, source, prot uint8
	other            uint8  // permissions of the pages in mask
	mask             uint16 // page by page
	size             uint32
	reserve          uint32 // beyond the size
	lead             uint16 // of the file offset, beyond a page
	off, n           int64
	arg              uint8 // of the operation
	known            bool  // a handle of a known type
}

// A span is what a range should come to, computed with numbers that cannot
// overflow.
type span struct {
	outside      bool
	first, last  int  // the pages that it touches
	begins, ends bool // on a page boundary
	whole        bool // both, or at an end of the mapping
}

// spanOf computes the span of n bytes at off in a mapping of size bytes, the
// first of which is lead bytes past a page boundary.
func spanOf(lead, size int, off, n int64) (s span) {
	page, length := big.NewInt(int64(onePage)), big.NewInt(int64(size))
	from := big.NewInt(off)
	to := new(big.Int).Add(from, big.NewInt(n))
	if s.outside = off < 0 || n < 0 || to.Cmp(length) > 0; s.outside || n == 0 {
		s.begins, s.ends, s.whole = true, true, true
		return s
	}
	skew := big.NewInt(int64(lead))
	first, begins := new(big.Int).DivMod(new(big.Int).Add(skew, from), page, new(big.Int))
	last, ends := new(big.Int).DivMod(new(big.Int).Add(skew, to), page, new(big.Int))
	s.first, s.last = int(first.Int64()), int(last.Int64())
	if ends.Sign() > 0 {
		s.last++
	}
	s.begins, s.ends = begins.Sign() == 0, ends.Sign() == 0
	s.whole = (off == 0 || s.begins) && (to.Cmp(length) == 0 || s.ends)
	return s
}

// How an operation on a range shows what it did.
const (
	unseen   = iota // not at all
	divides         // the kernel's areas are divided where the range ends
	loses           // contents change
	replaces        // in the permissions, or in what is mapped
)

// A rangeOp is an operation on a range.
type rangeOp struct {
	name    string
	feature string    // that not every kernel has
	whole   bool      // it refuses parts of pages
	need    mmap.Prot // of each page
	shows   int
	do      func(h mmap.Mapping, off, n int, a rangeArgs) error
}

type allLosses interface {
	PrefaultWrite(off, n int) error
	Discard(off, n int) error
	DiscardLocked(off, n int) error
	Free(off, n int) error
	Punch(off, n int) error
	WipeOnFork(off, n int) error
	InstallGuardPages(off, n int) error
	RemoveGuardPages(off, n int) error
}

func advises(a mmap.Advice) func(h mmap.Mapping, off, n int, _ rangeArgs) error {
	return func(h mmap.Mapping, off, n int, _ rangeArgs) error { return h.Advise(off, n, a) }
}

func does(f func(h mmap.Mapping, off, n int) error) func(h mmap.Mapping, off, n int, _ rangeArgs) error {
	return func(h mmap.Mapping, off, n int, _ rangeArgs) error { return f(h, off, n) }
}

func loss(f func(w allLosses, off, n int) error) func(h mmap.Mapping, off, n int, _ rangeArgs) error {
	return func(h mmap.Mapping, off, n int, _ rangeArgs) error { return f(h.(allLosses), off, n) }
}

// rangeOps are numbered by the corpus: new ones go to the end.
var rangeOps = []rangeOp{
	{"protect", "", true, 0, replaces, func(h mmap.Mapping, off, n int, a rangeArgs) error {
		return h.(mmap.Unknown).ProtectRange(off, n, mmap.Prot(a.arg%10))
	}},
	{"place", "", true, 0, replaces, nil},
	{"view", "", false, mmap.ProtRead, unseen, nil},
	{"update", "", false, mmap.ProtRead | mmap.ProtWrite, loses, nil},
	{"read", "", false, mmap.ProtRead, unseen, nil},
	{"write", "", false, mmap.ProtWrite, loses, nil},
	{"split", "", false, 0, unseen, nil},
	{"grow", "", false, 0, replaces, nil},
	{"resize", "", false, 0, replaces, nil},
	{"sync", "", false, 0, unseen, does(mmap.Mapping.Sync)},
	{"start sync", "", false, 0, unseen, does(mmap.Mapping.StartSync)},
	{"invalidate", "MLOCK_ONFAULT", false, 0, unseen, does(mmap.Mapping.Invalidate)},
	{"random", "", false, 0, divides, advises(mmap.AdviceRandom)},
	{"do not fork", "", false, 0, divides, advises(mmap.AdviceDontFork)},
	{"do not dump", "", false, 0, divides, advises(mmap.AdviceDontDump)},
	{"will need", "", false, 0, unseen, advises(mmap.AdviceWillNeed)},
	{"cold", "MADV_COLD", false, 0, unseen, advises(mmap.AdviceCold)},
	{"lock", "", false, 0, divides, does(mmap.Mapping.Lock)},
	{"lock on fault", "MLOCK_ONFAULT", false, 0, divides, does(mmap.Mapping.LockOnFault)},
	{"unlock", "MLOCK_ONFAULT", false, 0, divides, does(mmap.Mapping.Unlock)},
	{"policy", "mbind", false, 0, divides, func(h mmap.Mapping, off, n int, _ rangeArgs) error {
		return h.SetPolicy(off, n, mmap.PolicyLocal)
	}},
	{"resident", "", false, 0, unseen, nil},
	{"nodes", "mbind", false, 0, unseen, nil},
	{"prefault", "MADV_POPULATE_READ", false, mmap.ProtRead, unseen, does(mmap.Mapping.Prefault)},
	{"prefault write", "MADV_POPULATE_READ", false, mmap.ProtWrite, unseen, loss(allLosses.PrefaultWrite)},
	{"collapse", "", false, 0, unseen, does(mmap.Mapping.Collapse)},
	{"discard", "", true, mmap.ProtWrite, loses, loss(allLosses.Discard)},
	{"discard locked", "MADV_DONTNEED_LOCKED", true, mmap.ProtWrite, loses, loss(allLosses.DiscardLocked)},
	{"free", "", true, mmap.ProtWrite, loses, loss(allLosses.Free)},
	{"punch", "", true, mmap.ProtWrite, loses, loss(allLosses.Punch)},
	{"wipe on fork", "MADV_WIPEONFORK", true, mmap.ProtWrite, divides, loss(allLosses.WipeOnFork)},
	{"guard", "MADV_GUARD_INSTALL", true, mmap.ProtWrite, loses, loss(allLosses.InstallGuardPages)},
	{"remove guard", "MADV_GUARD_INSTALL", true, mmap.ProtWrite, loses, loss(allLosses.RemoveGuardPages)},
}

// A pageState is what the kernel has at a page.
type pageState struct {
	perms         procmaps.Perms
	inode, offset uint64
	mapped, cut   bool // cut: an area begins here
}

// seeding reports whether a target only runs its seeds. Then there can be many:
// the engine would spend seconds on them before it begins.
func seeding() bool { return flag.Lookup("test.fuzz").Value.String() == "" }

// pictured is what the kernel has at the pages of an arena.
type pictured [arenaPages]pageState

func (p pictured) String() (text string) {
	for i, page := range p {
		if page.mapped {
			text += fmt.Sprintf("\n\tpage %d: %v, inode %d from %#x, begins an area: %v", i-firstPage, page.perms, page.inode, page.offset, page.cut)
		}
	}
	return text
}

// An arenaTest is the fixed part of FuzzRanges.
type arenaTest struct {
	arena arena
	table *procmaps.Table
	file  *os.File
	inode uint64
	bytes []byte // of the file
	dirty bool   // a mapping has changed them
}

// The mapping begins at this page of the arena, and at this one of the file. It
// has at most so many pages.
const (
	firstPage   = 16
	firstOfFile = 1
	mostPages   = 8
	morePages   = 4 // of reserve
)

// picture returns what the kernel has in the arena, or in as much elsewhere.
func (a *arenaTest) picture(t *testing.T, start uintptr) (pages pictured) {
	walk(t, a.table, start, start+uintptr(arenaPages*onePage), func(at uintptr, area procmaps.Region) {
		p := pageState{perms: area.Perms, inode: area.Inode, mapped: true, cut: uint64(at) == area.Start}
		if area.Inode != 0 {
			p.offset = area.Offset + uint64(at) - area.Start
		}
		pages[(at-start)/uintptr(onePage)] = p
	})
	return pages
}

// uncut returns the pages without where areas begin.
func uncut(pages pictured) pictured {
	for i := range pages {
		pages[i].cut = false
	}
	return pages
}

// FuzzRanges does one operation with any range on a mapping of any length,
// capacity, lead and permissions. Which pages that touches, and whether it is
// refused, is computed with numbers of any size.
func FuzzRanges(f *testing.F) {
	page := onePage
	seed := func(op string, a rangeArgs) {
		a.op = uint8(slices.IndexFunc(rangeOps, func(o rangeOp) bool { return o.name == op }))
		f.Add(a.op, a.source, a.prot, a.other, a.mask, a.size, a.reserve, a.lead, a.off, a.n, a.arg, a.known)
	}
	four := rangeArgs{prot: 3, size: uint32(4 * page)}
	for _, op := range rangeOps {
		a := four
		a.off, a.n = int64(page), int64(2*page)
		seed(op.name, a) // whole pages in the middle
		a.n = int64(4 * page)
		seed(op.name, a) // more than there is from there on
		a.source, a.lead, a.size = sharedFile, 100, uint32(3*page)
		a.off, a.n = int64(page-100), int64(page)
		seed(op.name, a) // the same with a file offset that is unaligned
		a.source, a.off, a.n = privateFile, 1, int64(page)
		seed(op.name, a) // parts of two pages
		a.source, a.size, a.off, a.n = sharedMemory, uint32(2*page+5), int64(page), int64(page+5)
		seed(op.name, a) // to an end that is no page boundary
		a.off, a.n = 0, int64(2*page+6)
		seed(op.name, a) // one byte too many
		a.source, a.off, a.n = privateMemory, math.MaxInt64, 1
		seed(op.name, a) // the sum overflows
		a.off, a.n = 1, math.MaxInt64
		seed(op.name, a) // here, too
		a.off, a.n = -1, 1
		seed(op.name, a) // negative
		a.off, a.n = 1, -1
		seed(op.name, a) // negative
		a.off, a.n = int64(2*page+5), 0
		seed(op.name, a) // nothing, at the end
		a.size, a.off = 0, 0
		seed(op.name, a) // nothing, of nothing
		a = four
		a.mask, a.other, a.n = 4, 0, int64(4*page)
		seed(op.name, a) // a page in the middle allows nothing
		a.n = int64(2 * page)
		seed(op.name, a) // and is not touched
		a = four
		a.known, a.reserve, a.off, a.n = true, uint32(2*page+1), int64(5*page), int64(page)
		seed(op.name, a) // within the reserve
		a.off = int64(6*page + 1)
		seed(op.name, a) // to its very end
		a.off = int64(6*page + 2)
		seed(op.name, a) // a byte behind that
	}
	a := four
	a.off, a.n, a.arg = int64(page), int64(page), 8
	seed("protect", a) // no such permission
	a.n = 0
	seed("protect", a) // nor for nothing
	a = four
	a.off, a.n, a.arg = int64(page+7), int64(page-7), 1
	seed("place", a) // a file whose offset is as far past a page
	a.arg = 3
	seed("place", a) // and one whose is not
	a = four
	a.off, a.n, a.arg = int64(page), int64(page), 0
	seed("invalidate", a) // the locked page is before the range
	a.arg = 1
	seed("invalidate", a) // and in it
	a.arg = 2
	seed("invalidate", a) // and behind it
	a = four
	a.source, a.lead, a.n = sharedFile, 100, int64(page-100)
	seed("punch", a) // the file has other bytes before it, on the first page
	a.lead, a.size, a.n = 0, uint32(page+5), int64(page+5)
	seed("punch", a) // and here behind it, on the last
	a = four
	a.mask, a.reserve, a.off = 8, uint32(2*page), int64(5*page)
	seed("resize", a) // into the reserve, which becomes as the last page is
	a = four
	a.size, a.reserve, a.off = uint32(4*page-5), uint32(page), int64(4*page-5)
	seed("split", a) // the reserve cannot be divided from the last page
	a = four
	a.source, a.size, a.off = sharedMemory, 0, int64(page)
	seed("resize", a) // from nothing
	a.source = sharedFile
	seed("resize", a) // which has no source
	a.source, a.size, a.off = privateFile, uint32(page), 1<<40
	seed("resize", a) // farther than the file
	a.source, a.mask, a.other, a.size, a.off = privateMemory, 5, 1, uint32(4*page), int64(8*page)
	seed("resize", a) // of several areas

	if seeding() {
		random := rand.New(rand.NewPCG(4, 0))
		near := func(most int) int {
			return max(0, random.IntN(most+1)*page+[]int{0, 0, 0, 1, -1, 100, -100}[random.IntN(7)])
		}
		for range 60 * len(rangeOps) {
			a := rangeArgs{source: uint8(random.IntN(rangeSources)), prot: 3, size: uint32(near(4)), mask: uint16(random.Uint32() & random.Uint32()), other: uint8(random.IntN(8)),
				off: int64(near(4)), arg: uint8(random.Uint32()), known: random.IntN(4) == 0}
			if random.IntN(2) == 0 {
				a.lead = []uint16{1, 100, uint16(page - 1)}[random.IntN(3)]
			}
			if random.IntN(2) == 0 {
				a.reserve = uint32(near(2))
			}
			a.off = max(0, a.off-int64(random.IntN(2)*int(a.lead)))
			switch a.n = int64(near(3)); random.IntN(3) {
			case 0:
				a.n = int64(a.size) - a.off // to the end
			case 1:
				a.n = max(0, a.n-int64(a.lead)) // to a page boundary, from the start
			}
			seed(rangeOps[random.IntN(len(rangeOps))].name, a)
		}
	}

	fixed := &arenaTest{arena: newArena(f)}
	var err error
	if fixed.table, err = procmaps.Open(0); err != nil {
		f.Fatal(err)
	}
	fixed.bytes = make([]byte, (firstOfFile+mostPages+morePages+2)*page)
	for i := range fixed.bytes {
		fixed.bytes[i] = byte(i%251 + 1)
	}
	if fixed.file, err = mmap.Memfd("ranges", int64(len(fixed.bytes)), 0); err != nil {
		f.Fatal(err)
	}
	fixed.inode, fixed.dirty = inodeOf(f, fixed.table, fixed.file), true
	f.Cleanup(func() {
		fixed.table.Close()
		fixed.file.Close()
	})
	f.Fuzz(func(t *testing.T, op, source, prot, other uint8, mask uint16, size, reserve uint32, lead uint16, off, n int64, arg uint8, known bool) {
		a := rangeArgs{op % uint8(len(rangeOps)), source % rangeSources, prot % 8, other % 8, mask, size % uint32(mostPages*page+1),
			reserve % uint32(morePages*page+1), lead % uint16(min(page, 1<<15)), off, n, arg, known}
		if a.source < privateFile {
			a.lead = 0
		}
		switch o := rangeOps[a.op].name; {
		case int64(int(off)) != off && o != "read" && o != "write" || int64(int(n)) != n:
			t.Skip("wider than an int of this processor")
		case o == "resize" && sys.Race && off > 1<<40:
			t.Skip("it may reach the Go heap of a race build")
		}
		r := &rangeTest{arenaTest: fixed, rangeArgs: a, rangeOp: rangeOps[a.op], T: t}
		r.run()
	})
}

// A rangeTest is one execution of FuzzRanges.
type rangeTest struct {
	*testing.T
	*arenaTest
	rangeArgs
	rangeOp

	h           mmap.Mapping
	kind        *modelKind
	lead, len   int
	span        span
	data, pages int         // without and with the reserve
	prots       []mmap.Prot // of the data
	contents    []byte
	guards      []bool // pages that fault
	freed       []bool // pages whose contents can be gone
	before      pictured
}

func (r *rangeTest) isFile() bool { return r.source >= privateFile }
func (r *rangeTest) shared() bool { return r.source == sharedMemory || r.source == sharedFile }

// bytesOf returns where the bytes of pages [first, last) are in the mapping.
func (r *rangeTest) bytesOf(first, last int) (off, n int) {
	off = max(0, first*onePage-r.lead)
	return off, max(0, min(r.len, last*onePage-r.lead)-off)
}

// fileBytes returns what the file has for the mapping.
func (r *rangeTest) fileBytes() []byte {
	return r.bytes[firstOfFile*onePage+r.lead:][:r.len]
}

func (r *rangeTest) must(what string, err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

// agrees fails unless err is one of the reasons or, without any, nil. It reports
// whether it is.
func (r *rangeTest) agrees(err error, reasons []error) bool {
	r.Helper()
	for _, reason := range reasons {
		if errors.Is(err, reason) {
			return false
		}
	}
	if err != nil || len(reasons) > 0 {
		r.Fatalf("%s of %d bytes at %d, of %d bytes with lead %d: %v, want %v", r.name, r.n, r.off, r.len, r.lead, err, reasons)
	}
	return true
}

func (r *rangeTest) run() {
	if r.feature != "" && mmap.Probe(r.feature) != nil {
		r.Skip(r.feature)
	}
	r.lead, r.len = int(r.rangeArgs.lead), int(r.size)
	capacity := r.len + int(r.reserve)
	r.data, r.pages = pagesFor(r.lead, r.len), pagesFor(r.lead, capacity)
	r.span = spanOf(r.lead, r.len, r.off, r.n)
	if r.dirty {
		_, err := r.file.WriteAt(r.bytes, 0)
		r.must("write", err)
		r.dirty = false
	}
	spec := mmap.Anonymous(r.len)
	if r.isFile() {
		spec = mmap.File(r.file, int64(firstOfFile*onePage+r.lead), r.len)
	}
	if r.shared() {
		spec = spec.Shared()
	}
	if r.reserve > 0 {
		spec = spec.Reserve(capacity)
	}
	u, err := mmap.MapUnknown(spec.At(r.arena.page(firstPage)+uintptr(r.lead)), mmap.ProtRead|mmap.ProtWrite)
	r.must("map", err)
	r.h, r.kind = u, unknownKind
	defer func() {
		if err := r.h.Close(); err != nil {
			r.Error(err)
		}
		if r.picture(r.T, r.arena.start) != (pictured{}) {
			r.Error("something is mapped after Close")
			r.arena = newArena(r)
		}
	}()
	r.prepare(u)
	r.before = r.picture(r.T, r.arena.start)
	r.checkBefore()
	switch r.name {
	case "place":
		r.place()
	case "view", "update":
		r.view()
	case "read", "write":
		r.transfer()
	case "split":
		r.split()
	case "grow":
		r.grow()
	case "resize":
		r.resize()
	case "resident", "nodes":
		r.ask()
	default:
		r.within()
	}
	r.checkAccount()
}

// checkAccount compares what the library believes of each page with what the
// kernel has.
func (r *rangeTest) checkAccount() {
	if r.len = r.h.Len(); pagesFor(r.lead, r.len) > arenaPages-firstPage {
		return
	}
	pages := r.picture(r.T, r.h.Addr()-uintptr(r.lead)-uintptr(firstPage*onePage))
	u, ok := r.h.(mmap.Unknown)
	for i := range pagesFor(r.lead, r.len) {
		p := mmap.Prot(pages[firstPage+i].perms &^ procmaps.Shared)
		if !ok {
			if r.h.Prot() != p {
				r.Fatalf("after %s of %d bytes at %d: page %d is %v, of %v", r.name, r.n, r.off, i, p, r.h)
			}
			continue
		}
		off, n := r.bytesOf(i, i+1)
		view, update := u.ViewRange(off, n, idle), u.UpdateRange(off, n, idle)
		if (view == nil) != (p&mmap.ProtRead != 0) || (update == nil) != (p&3 == 3) {
			r.Fatalf("after %s of %d bytes at %d: page %d is %v, but %v, %v", r.name, r.n, r.off, i, p, view, update)
		}
	}
}

// idle is a view that looks at nothing.
func idle([]byte) error { return nil }

// prepare gives the mapping its contents and permissions.
func (r *rangeTest) prepare(u mmap.Unknown) {
	if r.contents = make([]byte, r.len); r.isFile() {
		copy(r.contents, r.fileBytes())
	}
	r.guards, r.freed = make([]bool, r.data), make([]bool, r.data)
	switch r.name {
	case "view", "update", "read", "write", "discard", "discard locked", "free", "punch", "guard", "remove guard":
		for i := range r.contents {
			r.contents[i] = byte(200 - i%193)
		}
		_, err := u.WriteAt(r.contents, 0)
		r.must("write", err)
		r.dirty = r.source == sharedFile
	case "resident", "nodes", "prefault", "prefault write":
		u.Advise(0, r.len, mmap.AdviceNoHugePage) // which not every kernel has
		for i := range r.data {
			if off, _ := r.bytesOf(i, i+1); r.arg>>(i%8)&1 != 0 {
				_, err := u.WriteAt([]byte{0}, int64(off))
				r.must("write", err)
				r.contents[off] = 0
				r.dirty = r.source == sharedFile
			}
		}
	}
	if r.name == "remove guard" {
		if err := u.InstallGuardPages(0, r.len); err != nil && r.source != privateMemory {
			r.Skip("no guard pages in files") // before Linux 6.15
		} else {
			r.must("guard pages", err)
		}
		r.drop(0, r.data)
		for i := range r.guards {
			r.guards[i] = true
		}
	}
	if lock := r.lockRange(); r.data > 0 && lock[1] > 0 {
		if err := u.LockOnFault(lock[0], lock[1]); err != nil {
			r.Skip("the limit of locked memory")
		}
	}
	switch r.name {
	case "protect", "place", "view", "update":
		r.known = false
	case "grow":
		r.known = true
	}
	r.prots = slices.Repeat([]mmap.Prot{mmap.Prot(r.prot)}, r.data)
	r.must("protect", u.Protect(mmap.Prot(r.prot)))
	for i := range r.prots {
		if !r.known && r.mask>>i&1 != 0 {
			off, n := r.bytesOf(i, i+1)
			r.prots[i] = mmap.Prot(r.other)
			r.must("protect", u.ProtectRange(off, n, r.prots[i]))
		}
	}
	if r.known {
		h, err := modelKinds[r.prot].assert(u)
		r.must("assert", err)
		r.h, r.kind = h, modelKinds[r.prot]
	}
}

// lockedPage returns which page Invalidate is to find locked.
func (r *rangeTest) lockedPage() int { return int(r.arg) % max(r.data, 1) }

// lockRange returns the bytes that are to be locked before the operation.
func (r *rangeTest) lockRange() (is [2]int) {
	switch r.name {
	case "unlock":
		is[1] = r.len
	case "invalidate":
		is[0], is[1] = r.bytesOf(r.lockedPage(), r.lockedPage()+1)
	}
	return is
}

// drop does to the contents of pages what Discard does.
func (r *rangeTest) drop(first, last int) {
	off, n := r.bytesOf(first, last)
	switch r.source {
	case privateMemory:
		clear(r.contents[off : off+n])
	case privateFile:
		copy(r.contents[off:off+n], r.fileBytes()[off:])
	}
}

// checkBefore compares what was mapped with what was asked for.
func (r *rangeTest) checkBefore() {
	for i, p := range r.before {
		i -= firstPage
		if p.mapped != (i >= 0 && i < r.pages) {
			r.Fatalf("page %d: mapped %v, of %d", i, p.mapped, r.pages)
		}
		if !p.mapped {
			continue
		}
		want := procmaps.Perms(0)
		if i < r.data {
			want = procmaps.Perms(r.prots[i])
		}
		if r.shared() {
			want |= procmaps.Shared
		}
		if p.perms != want || r.isFile() && (p.inode != r.inode || p.offset != uint64((i+firstOfFile)*onePage)) {
			r.Fatalf("page %d is %+v, want %v", i, p, want)
		}
	}
}

// unchanged fails unless the kernel has what it had.
func (r *rangeTest) unchanged() {
	r.Helper()
	if after := r.picture(r.T, r.arena.start); after != r.before {
		r.Fatalf("%s of %d bytes at %d changed%v\nto%v", r.name, r.n, r.off, r.before, after)
	}
}

// becomes fails unless the kernel has these pages, however divided.
func (r *rangeTest) becomes(want pictured) (after pictured) {
	r.Helper()
	after = r.picture(r.T, r.arena.start)
	if uncut(after) != uncut(want) {
		r.Fatalf("%s of %d bytes at %d: got%v\nwant%v", r.name, r.n, r.off, after, want)
	}
	return after
}

// reasons are those not to touch the span.
func (r *rangeTest) reasons() (reasons []error) {
	because(&reasons, r.span.outside || r.whole && !r.span.whole, os.ErrInvalid)
	for _, p := range r.prots[r.span.first:r.span.last] {
		because(&reasons, p&r.need != r.need, mmap.ErrPermission)
	}
	return reasons
}

// within does what acts on the pages of a range.
func (r *rangeTest) within() {
	if _, ok := r.h.(allLosses); !ok && r.need&mmap.ProtWrite != 0 {
		return // which is seen at compile time
	}
	reasons, some := r.reasons(), r.span.first < r.span.last
	switch r.name {
	case "protect":
		because(&reasons, r.arg%10 > 7, os.ErrInvalid)
	case "invalidate":
		because(&reasons, r.span.first <= r.lockedPage() && r.lockedPage() < r.span.last, unix.EBUSY)
	case "lock":
		for _, p := range r.prots[r.span.first:r.span.last] {
			because(&reasons, p&(mmap.ProtRead|mmap.ProtWrite) == 0, mmap.ErrPermission)
		}
	case "collapse":
		// No huge page lies within.
		because(&reasons, some, unix.EINVAL)
		because(&reasons, some, errors.ErrUnsupported)
	case "free", "wipe on fork":
		because(&reasons, some && r.source != privateMemory, unix.EINVAL)
	case "punch":
		because(&reasons, some && !r.shared(), unix.EINVAL)
		because(&reasons, some && !r.shared(), unix.EACCES)
		because(&reasons, !(r.span.begins && r.span.ends) && r.isFile(), unix.EINVAL)
	}
	err := r.do(r.h, int(r.off), int(r.n), r.rangeArgs)
	if r.name == "guard" && r.source != privateMemory && len(reasons) == 0 && errors.Is(err, unix.EINVAL) {
		r.Skip("no guard pages in files") // before Linux 6.15
	}
	if (r.name == "lock" || r.name == "lock on fault") && len(reasons) == 0 && (errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM)) {
		r.Skip("the limit of locked memory")
	}
	done := r.agrees(err, reasons) && some
	want, first, last := r.before, firstPage+r.span.first, firstPage+r.span.last
	switch {
	case !done || r.shows == unseen:
		r.unchanged()
	case r.shows == divides:
		after := r.becomes(want)
		for i, p := range after {
			// What is unlocked becomes like the reserve.
			end := i == last && (r.span.last < r.data || r.span.last < r.pages && r.name != "unlock")
			if (i == first || end) && !p.cut || i != first && i != last && p.cut && !want[i].cut {
				r.Fatalf("%s of %d bytes at %d: page %d begins an area: %v", r.name, r.n, r.off, i-firstPage, p.cut)
			}
		}
	case r.shows == replaces:
		for i := first; i < last; i++ {
			want[i].perms = want[i].perms&procmaps.Shared | procmaps.Perms(r.arg%10)
		}
		r.becomes(want)
	}
	if r.name == "prefault" || r.name == "prefault write" {
		r.checkResident(done)
	}
	if r.shows != loses {
		return
	}
	if done {
		switch r.name {
		case "punch":
			off, n := r.bytesOf(r.span.first, r.span.last)
			clear(r.contents[off : off+n])
			r.dirty = true
		case "free":
			for i := r.span.first; i < r.span.last; i++ {
				r.freed[i] = true
			}
		default:
			r.drop(r.span.first, r.span.last)
		}
		for i := r.span.first; i < r.span.last; i++ {
			r.guards[i] = r.name == "guard"
		}
	}
	r.checkContents()
}

// checkContents compares all contents, page by page.
func (r *rangeTest) checkContents() {
	r.Helper()
	if u, ok := r.h.(mmap.Unknown); ok {
		r.must("protect", u.Protect(mmap.ProtRead|mmap.ProtWrite))
	}
	reader, ok := r.h.(io.ReaderAt)
	if !ok {
		return
	}
	got := make([]byte, onePage)
	for i := range r.data {
		off, n := r.bytesOf(i, i+1)
		done, err := reader.ReadAt(got[:n], int64(off))
		switch {
		case r.guards[i]:
			if done != 0 || !errors.Is(err, mmap.ErrFault) {
				r.Fatalf("%s of %d bytes at %d: page %d can be touched: %v", r.name, r.n, r.off, i, err)
			}
		case err != nil:
			r.Fatalf("%s of %d bytes at %d: page %d: %v", r.name, r.n, r.off, i, err)
		case r.freed[i] && !bytes.ContainsFunc(got[:n], func(c rune) bool { return c != 0 }):
		case !bytes.Equal(got[:n], r.contents[off:off+n]):
			r.Fatalf("%s of %d bytes at %d: page %d has other contents", r.name, r.n, r.off, i)
		}
	}
}

// touched reports whether prepare has written to a page of anonymous memory.
func (r *rangeTest) touched(i int) bool { return r.arg>>(i%8)&1 != 0 }

// checkResident compares which pages of anonymous memory are there, after the
// span was prefaulted.
func (r *rangeTest) checkResident(done bool) {
	pages, err := r.h.ResidentPages(0, r.len)
	if err != nil || len(pages) != r.data {
		r.Fatalf("%d of %d pages, %v", len(pages), r.data, err)
	}
	for i, in := range pages {
		if want := r.touched(i) || done && r.span.first <= i && i < r.span.last; !r.isFile() && in != want {
			r.Fatalf("%s of %d bytes at %d: page %d is in memory: %v", r.name, r.n, r.off, i, in)
		}
	}
}

// ask does what answers for each page.
func (r *rangeTest) ask() {
	off, n := int(r.off), int(r.n)
	var is []bool
	if r.name == "nodes" {
		nodes, err := r.h.Nodes(off, n)
		r.agrees(err, r.reasons())
		for _, node := range nodes {
			is = append(is, node >= 0)
		}
	} else {
		sum, err := r.h.Resident(off, n)
		r.agrees(err, r.reasons())
		is, err = r.h.ResidentPages(off, n)
		r.agrees(err, r.reasons())
		for _, in := range is {
			if in {
				sum -= onePage
			}
		}
		if sum != 0 {
			r.Fatalf("Resident and ResidentPages of %d bytes at %d differ by %d bytes", n, off, sum)
		}
	}
	if len(is) != r.span.last-r.span.first {
		r.Fatalf("%s of %d bytes at %d: %d pages, want %d", r.name, n, off, len(is), r.span.last-r.span.first)
	}
	for i, in := range is {
		if i += r.span.first; in != r.touched(i) && !r.isFile() {
			r.Fatalf("%s of %d bytes at %d: page %d is %v", r.name, n, off, i, in)
		}
	}
	r.unchanged()
}

// place maps n bytes inside. arg says what: a file, at an offset that does not
// fit, and with which permissions.
func (r *rangeTest) place() {
	p, lead := mmap.Prot(r.arg>>2%9), int64(0)
	spec, inode := mmap.Anonymous(int(r.n)), uint64(0)
	past := new(big.Int).Add(big.NewInt(int64(r.lead)), big.NewInt(r.off))
	past.Mod(past, big.NewInt(int64(onePage)))
	if r.arg&1 != 0 {
		if r.arg&2 == 0 {
			lead = past.Int64()
		}
		spec, inode = mmap.File(r.file, int64(2*onePage)+lead, int(r.n)), r.inode
	}
	var reasons []error
	fits := past.Cmp(big.NewInt(lead)) == 0 && (r.span.ends || int64(r.len)-r.off == r.n)
	because(&reasons, r.span.outside || p > 7 || r.n > 0 && !fits, os.ErrInvalid)
	because(&reasons, r.arg&1 != 0 && r.n > math.MaxInt64-int64(3*onePage), unix.EOVERFLOW)
	err := r.h.(mmap.Unknown).Place(int(r.off), spec, p)
	if !r.agrees(err, reasons) {
		r.unchanged()
		return
	}
	want := r.before
	for i := r.span.first; i < r.span.last; i++ {
		q := pageState{mapped: true, perms: procmaps.Perms(p), inode: inode}
		if inode != 0 {
			q.offset = uint64((2 + i - r.span.first) * onePage)
		}
		want[firstPage+i] = q
	}
	r.becomes(want)
}

// view does ViewRange and UpdateRange.
func (r *rangeTest) view() {
	u, called := r.h.(mmap.Unknown), false
	do := u.ViewRange
	if r.name == "update" {
		do = u.UpdateRange
	}
	err := do(int(r.off), int(r.n), func(b []byte) error {
		called = true
		if len(b) != int(r.n) || cap(b) != len(b) {
			r.Fatalf("a view of %d bytes has len %d, cap %d", r.n, len(b), cap(b))
		}
		if len(b) > 0 && reflect.ValueOf(b).Pointer() != r.h.Addr()+uintptr(r.off) {
			r.Fatalf("a view at %d is elsewhere", r.off)
		}
		if !bytes.Equal(b, r.contents[r.off:r.off+r.n]) {
			r.Fatalf("a view of %d bytes at %d has other contents", r.n, r.off)
		}
		if r.name == "update" {
			for i := range b {
				b[i] ^= 0xff
				r.contents[int(r.off)+i] ^= 0xff
			}
		}
		return nil
	})
	if r.agrees(err, r.reasons()) != called {
		r.Fatalf("called: %v, %v", called, err)
	}
	r.unchanged()
	r.checkContents()
}

// transfer does ReadAt and WriteAt.
func (r *rangeTest) transfer() {
	buf := bytes.Repeat([]byte{0xa5}, int(min(max(r.n, 0), int64((mostPages+2)*onePage))))
	// How much there is from off on, and how much of that is allowed.
	there := new(big.Int).Sub(big.NewInt(int64(r.len)), big.NewInt(r.off))
	want, reasons := 0, []error(nil)
	switch {
	case r.off < 0:
		reasons = []error{os.ErrInvalid}
	case len(buf) == 0:
	case there.Cmp(big.NewInt(int64(len(buf)))) >= 0:
		want = len(buf)
	default:
		want = int(max(there.Int64(), 0))
		reasons = []error{io.EOF}
		if r.name == "write" {
			reasons = []error{io.ErrShortWrite}
		}
	}
	for i := int64(0); i < int64(want); i++ {
		if p := r.prots[(int64(r.lead)+r.off+i)/int64(onePage)]; p&r.need == 0 {
			want, reasons = int(i), []error{mmap.ErrPermission}
		}
	}
	var n int
	var err error
	if r.name == "read" {
		h, ok := r.h.(io.ReaderAt)
		if !ok {
			return
		}
		if n, err = h.ReadAt(buf, r.off); n == want && want > 0 && !bytes.Equal(buf[:n], r.contents[r.off:][:n]) {
			r.Fatalf("%d bytes read at %d differ", n, r.off)
		}
		if bytes.ContainsFunc(buf[min(n, len(buf)):], func(c rune) bool { return c != 0xfffd }) {
			r.Fatalf("a read of %d bytes at %d has changed more than %d", len(buf), r.off, n)
		}
	} else {
		h, ok := r.h.(io.WriterAt)
		if !ok {
			return
		}
		if n, err = h.WriteAt(buf, r.off); want > 0 {
			copy(r.contents[r.off:], buf[:want])
		}
	}
	if r.agrees(err, reasons); n != want {
		r.Fatalf("%s of %d bytes at %d: %d, want %d", r.name, len(buf), r.off, n, want)
	}
	r.unchanged()
	r.checkContents()
}

// split divides at off, and joins again.
func (r *rangeTest) split() {
	s := spanOf(r.lead, r.len, 0, r.off)
	var reasons []error
	because(&reasons, s.outside || !s.whole || !s.ends && r.reserve > 0 && r.off > 0, os.ErrInvalid)
	left, right, err := r.kind.split(r.h, int(r.off))
	if r.agrees(err, reasons) {
		off, capacity := int(r.off), r.len+int(r.reserve)
		addr := r.arena.page(firstPage) + uintptr(r.lead)
		inert(r, r.h, mmap.ErrMoved)
		if left.Addr() != addr || left.Len() != off || left.Cap() != off ||
			right.Addr() != addr+uintptr(off) || right.Len() != r.len-off || right.Cap() != capacity-off {
			r.Fatalf("split of %d bytes (%d) at %d: %v (%d) and %v (%d)", r.len, capacity, off, left, left.Cap(), right, right.Cap())
		}
		r.unchanged()
		if r.h, err = r.kind.join(left, right); err != nil {
			r.Fatalf("join after split of %d bytes at %d: %v", r.len, off, err)
		}
	}
	if r.h.Len() != r.len || r.h.Cap() != r.len+int(r.reserve) {
		r.Fatalf("%v, Cap %d", r.h, r.h.Cap())
	}
	r.unchanged()
}

// grow makes the mapping off bytes long.
func (r *rangeTest) grow() {
	var reasons []error
	capacity := r.len + int(r.reserve)
	because(&reasons, r.off < int64(r.len), os.ErrInvalid)
	because(&reasons, r.off > int64(capacity), mmap.ErrCapacity)
	if !r.agrees(r.kind.grow(r.h, int(r.off)), reasons) {
		r.unchanged()
		return
	}
	want := r.before
	for i := r.data; i < pagesFor(r.lead, int(r.off)); i++ {
		want[firstPage+i].perms |= procmaps.Perms(r.prot)
	}
	r.becomes(want)
	if r.h.Len() != int(r.off) || r.h.Cap() != capacity {
		r.Fatalf("%v, Cap %d, after growth to %d", r.h, r.h.Cap(), r.off)
	}
}

// resize makes the mapping off bytes long, and may move it.
func (r *rangeTest) resize() {
	const huge = 1 << 24
	want := 0
	if r.off <= huge {
		want = pagesFor(r.lead, int(max(r.off, 0)))
	}
	var reasons []error
	grows := r.off > huge || want > r.pages
	because(&reasons, r.off < 0, os.ErrInvalid)
	because(&reasons, grows && (r.data == 0 && r.isFile() || r.data > 0 && r.source == sharedMemory), os.ErrInvalid)
	old := r.h.Addr()
	next, err := r.kind.resize(r.h, int(r.off))
	if err != nil && r.off > huge {
		reasons = append(reasons, unix.ENOMEM, unix.EINVAL)
	}
	if !r.agrees(err, reasons) {
		if next != r.h {
			r.Fatalf("a failed Resize returns %v", next)
		}
		r.unchanged()
		return
	}
	inert(r, r.h, mmap.ErrMoved)
	r.h = next
	if next.Len() != int(r.off) || next.Cap() != int(r.off) || next.Addr()%uintptr(onePage) != old%uintptr(onePage) || !grows && next.Addr() != old {
		t := [2]uintptr{old, next.Addr()}
		r.Fatalf("%v, Cap %d, from %#x, after a resize to %d", next, next.Cap(), t, r.off)
	}
	if r.off > huge {
		return
	}
	pages := r.before
	last := procmaps.Perms(r.prot)
	if r.data > 0 {
		last = procmaps.Perms(r.prots[r.data-1])
	}
	clear(pages[firstPage+min(r.data, want):])
	for i := min(r.data, want); i < want; i++ {
		// As far as it has been mapped from the start it is the same object.
		q := pageState{mapped: true, perms: last, inode: r.before[firstPage].inode}
		if r.shared() {
			q.perms |= procmaps.Shared
		}
		if q.inode != 0 {
			q.offset = r.before[firstPage].offset + uint64(i*onePage)
		}
		pages[firstPage+i] = q
	}
	after := r.picture(r.T, next.Addr()-uintptr(r.lead)-uintptr(firstPage*onePage))
	for i := range pages {
		// Elsewhere others are around it; and new shared memory is another object.
		if i < firstPage || i >= firstPage+want {
			if next.Addr() != old {
				after[i] = pageState{}
			}
		} else if r.data == 0 && grows && r.shared() {
			pages[i].inode, pages[i].offset = after[i].inode, after[i].offset
		}
	}
	if uncut(after) != uncut(pages) {
		r.Fatalf("resize to %d: got%v\nwant%v", r.off, after, pages)
	}
	if next.Addr() != old && r.picture(r.T, r.arena.start) != (pictured{}) {
		r.Fatal("something is left at the old place")
	}
}

// The sources of FuzzSpecs.
const (
	zeroSpec = iota
	specAnonymous
	specFile
	specFD
	specReadOnly
	specPath
	specSecret
	specNil
	specClosed
	specSources
)

// specSteps are the methods of a Spec, each with the letters that stand for it.
// A method with an argument has two letters, for one argument and another. The
// methods of a group exclude or override each other; all else may be exchanged.
var specSteps = []struct {
	letters string
	group   int
	do      func(s mmap.Spec, p *plan, arg int64) mmap.Spec
}{
	{"s", 0, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.shared = true; return s.Shared() }},
	{"nN", 1, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.place("near", arg); return s.Near(uintptr(arg)) }},
	{"aA", 1, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.place("at", arg); return s.At(uintptr(arg)) }},
	{"oO", 1, func(s mmap.Spec, p *plan, arg int64) mmap.Spec {
		p.place("onto", arg)
		return s.UnsafeOnto(uintptr(arg))
	}},
	{"lL", 2, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.align = &arg; return s.Align(int(arg)) }},
	{"rR", 3, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.reserve = &arg; return s.Reserve(int(arg)) }},
	{"hH", 4, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.huge = &arg; return s.HugePages(int(arg)) }},
	{"p", 5, func(s mmap.Spec, _ *plan, _ int64) mmap.Spec { return s.Populate() }},
	{"c", 6, func(s mmap.Spec, _ *plan, _ int64) mmap.Spec { return s.PopulateCached() }},
	{"k", 7, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.lock = "lo"; return s.Lock() }},
	{"f", 7, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.lock = "lf"; return s.LockOnFault() }},
	{"u", 8, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.noReserve = true; return s.NoReserve() }},
	{"w", 9, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.low = true; return s.Low() }},
	{"d", 10, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.droppable = true; return s.Droppable() }},
	{"y", 11, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.synchronous = true; return s.Synchronous() }},
}

// A plan is what a sequence of steps should come to.
type plan struct {
	source                 uint8
	prot                   mmap.Prot
	size, offset           int64
	shared, noReserve, low bool
	droppable, synchronous bool
	placement, lock        string
	places                 int
	addr                   uint64
	align, reserve, huge   *int64 // the last one said
}

func (p *plan) place(how string, addr int64) {
	p.placement, p.addr = how, uint64(addr)
	p.places++
}

func (p *plan) anonymous() bool { return p.source == specAnonymous }
func (p *plan) isFile() bool {
	return p.source != specAnonymous && p.source != specSecret && p.source != zeroSpec
}
func (p *plan) fixed() bool  { return p.placement == "at" || p.placement == "onto" }
func (p *plan) lead() uint64 { return uint64(p.offset) % uint64(onePage) }

func (p *plan) capacity() int64 {
	if p.reserve != nil {
		return *p.reserve
	}
	return p.size
}

// A specRule is a reason for Map to fail: one that it must give, or one that it
// may give because of the machine.
type specRule struct {
	broken bool
	err    error
}

// musts are the rules of the documentation.
func (p *plan) musts() []specRule {
	lead, page := p.lead(), uint64(onePage)
	bothSides := new(big.Int).Add(big.NewInt(p.offset), big.NewInt(p.size))
	return []specRule{
		{p.source == zeroSpec || p.source == specNil, os.ErrInvalid},
		{p.source == specClosed, os.ErrClosed},
		{p.prot > 7, os.ErrInvalid},
		{p.size < 0 || p.offset < 0, os.ErrInvalid},
		{!bothSides.IsInt64(), unix.EOVERFLOW},
		{p.places > 1, os.ErrInvalid},
		{p.fixed() && (p.addr < page || p.addr%page != lead), os.ErrInvalid},
		{p.align != nil && (*p.align <= 0 || *p.align&(*p.align-1) != 0), os.ErrInvalid},
		{p.align != nil && *p.align > 0 && lead%uint64(*p.align) != 0, os.ErrInvalid},
		{p.align != nil && *p.align > 0 && p.fixed() && p.addr%uint64(*p.align) != 0, os.ErrInvalid},
		{p.capacity() < p.size || p.capacity() < 0, os.ErrInvalid},
		{p.huge != nil && !p.anonymous(), os.ErrInvalid},
		{p.huge != nil && *p.huge != 0 && (*p.huge <= int64(page) || *p.huge&(*p.huge-1) != 0), os.ErrInvalid},
		{p.droppable && (!p.anonymous() || p.shared || p.huge != nil || p.lock != ""), os.ErrInvalid},
		{p.droppable && mmap.Probe("MAP_DROPPABLE") != nil && p.capacity() > 0, errors.ErrUnsupported},
		{p.synchronous && (!p.shared || !p.isFile()), os.ErrInvalid},
		{p.synchronous && p.placement == "at", os.ErrInvalid},
		{p.synchronous && p.capacity() > 0, unix.EOPNOTSUPP}, // there is no persistent memory
		{p.low && p.fixed(), os.ErrInvalid},
		{p.low && runtime.GOARCH != "amd64", errors.ErrUnsupported},
		{p.source == specReadOnly && p.shared && p.prot&mmap.ProtWrite != 0 && p.size > 0, unix.EACCES},
		{p.source == specSecret && p.prot&mmap.ProtExec != 0 && p.size > 0, mmap.ErrPermission},
		{p.source == specSecret && mmap.Probe("memfd_secret") != nil, errors.ErrUnsupported},
	}
}

// mays are what the machine can lack.
func (p *plan) mays() []specRule {
	large := p.size > 1<<20 || p.capacity() > 1<<20
	locked := p.lock != "" || p.source == specSecret
	return []specRule{
		{large || p.huge != nil || locked || p.low || p.align != nil, unix.ENOMEM},
		{large && p.isFile(), unix.EOVERFLOW}, // past the largest page of a file
		{p.offset > 1<<40, unix.EOVERFLOW},
		{p.huge != nil, errors.ErrUnsupported},
		{p.huge != nil && p.fixed(), os.ErrInvalid}, // not on its boundary
		{locked, unix.EAGAIN},
		{locked, unix.EPERM},
		{p.source == specPath && p.prot&mmap.ProtExec != 0, mmap.ErrPermission}, // no programs on that file system
	}
}

// An outcome is what mapping a Spec came to, without what differs each time.
type outcome struct {
	err      string
	len, cap int
	prot     mmap.Prot
	addr     uintptr // if it was said
	perms    procmaps.Perms
	flags    string // in the kernel's other table
}

// errorClasses are what outcomes tell apart.
var errorClasses = []error{os.ErrInvalid, os.ErrClosed, os.ErrPermission, os.ErrExist, errors.ErrUnsupported, unix.EOVERFLOW, unix.ENOMEM, unix.EAGAIN, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP}

func errorClass(err error) (class string) {
	for _, c := range errorClasses {
		if errors.Is(err, c) {
			class += fmt.Sprintf("%v; ", c)
		}
	}
	return class
}

// specTest is the fixed part of FuzzSpecs.
type specTest struct {
	arena arena
	table *procmaps.Table
	files [specSources]*os.File
	name  string
}

// source returns the Spec of the source.
func (f *specTest) source(p *plan) mmap.Spec {
	switch size := int(p.size); p.source {
	case specAnonymous:
		return mmap.Anonymous(size)
	case specFD:
		return mmap.FD(int(f.files[specFD].Fd()), p.offset, size)
	case specFile, specReadOnly, specNil, specClosed:
		return mmap.File(f.files[p.source], p.offset, size)
	case specPath:
		return mmap.Path(f.name)
	case specSecret:
		return mmap.Secret(size)
	}
	return mmap.Spec{}
}

// outcome maps s, and closes it.
func (f *specTest) outcome(t *testing.T, s mmap.Spec, p *plan) (o outcome, failed error) {
	h, err := mmap.MapUnknown(s, p.prot)
	if err != nil {
		inert(t, h, mmap.ErrClosed)
		return outcome{err: errorClass(err)}, err
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	o = outcome{len: h.Len(), cap: h.Cap(), prot: h.Prot()}
	if p.fixed() {
		o.addr = h.Addr()
	}
	if p.align != nil && h.Cap() > 0 && h.Addr()%uintptr(*p.align) != 0 {
		t.Fatalf("%v is not aligned: %v", s, h)
	}
	if p.low && h.Cap() > 0 && uint64(h.Addr())+uint64(h.Cap()) > 1<<31 {
		t.Fatalf("%v is not low: %v", s, h)
	}
	if h.Len() == 0 {
		return o, nil
	}
	area, ok, err := f.table.At(uint64(h.Addr()))
	if err != nil || !ok {
		t.Fatalf("%v: nothing is mapped at %#x: %v", s, h.Addr(), err)
	}
	o.perms = area.Perms
	if p.isFile() && area.Offset+uint64(h.Addr())-area.Start != uint64(p.offset) {
		t.Fatalf("%v: the first byte is not at offset %d: %v", s, p.offset, area)
	}
	// The kernel tells in another table what else the pages are.
	var flags []string
	for _, flag := range vmFlags(t, h.Addr()) {
		if flag == "??" {
			flag = "lf" // which had no name of its own before Linux 6.2 or so
		}
		if slices.Contains([]string{"dp", "ht", "lf", "lo", "nr", "sf"}, flag) {
			flags = append(flags, flag)
		}
	}
	slices.Sort(flags)
	o.flags = strings.Join(flags, " ")
	return o, nil
}

// vmFlags returns the flags of the kernel's area around addr.
func vmFlags(t failer, addr uintptr) []string {
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatalf("smaps: %v", err)
	}
	defer file.Close()
	inside := false
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if line[0] < 'A' || line[0] >= 'a' { // the others begin with a capital
			r, err := procmaps.Parse(line)
			inside = err == nil && r.Contains(uint64(addr))
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatalf("nothing is mapped at %#x", addr)
	return nil
}

// expected is the outcome of a plan that breaks no rule.
func (p *plan) expected() outcome {
	o := outcome{len: int(p.size), cap: int(p.capacity()), prot: p.prot}
	if p.fixed() {
		o.addr = uintptr(p.addr)
	}
	if p.size == 0 {
		return o
	}
	o.perms = procmaps.Perms(p.prot)
	if p.shared || p.source == specSecret {
		o.perms |= procmaps.Shared
	}
	var flags []string
	for _, flag := range []struct {
		name string
		has  bool
	}{
		{"dp", p.droppable},
		{"ht", p.huge != nil},
		{"lf", p.source != specSecret && p.huge == nil && (p.lock == "lf" || p.lock == "lo" && p.prot&(mmap.ProtRead|mmap.ProtWrite) == 0)},
		{"lo", p.source == specSecret || p.lock != "" && p.huge == nil}, // huge pages stay anyway
		{"nr", p.noReserve || p.droppable || p.shared && p.anonymous() && p.huge == nil && pagesFor(0, int(p.capacity())) > pagesFor(0, int(p.size))},
	} {
		if flag.has {
			flags = append(flags, flag.name)
		}
	}
	o.flags = strings.Join(flags, " ")
	return o
}

// specArgs are the arguments of FuzzSpecs.
type specArgs struct {
	source, prot  uint8
	size, offset  int64
	steps         string // letters of specSteps; another byte stands for one of them
	addr, addr2   uint64 // 0, or within the arena
	align, align2 int64
	reserve, more int64
	huge, huge2   int64
	order         uint64 // in which the steps are repeated
	kept          uint8  // how many steps the Spec has that is kept
}

// FuzzSpecs chains the methods of a Spec. What comes out is what a table of the
// rules says, in whatever order independent methods are called; and a Spec that
// was kept maps the same before and after others were made of it.
func FuzzSpecs(f *testing.F) {
	page := int64(onePage)
	add := func(a specArgs) {
		f.Add(a.source, a.prot, a.size, a.offset, a.steps, a.addr, a.addr2, a.align, a.align2, a.reserve, a.more, a.huge, a.huge2, a.order, a.kept)
	}
	for source := range uint8(specSources) {
		add(specArgs{source: source, prot: 1, size: page})                                // no steps at all
		add(specArgs{source: source, prot: 3, size: page, steps: "s", kept: 0})           // the kept one is private
		add(specArgs{source: source, prot: 3, size: page, offset: 7, steps: "kfsu"})      // the last lock wins
		add(specArgs{source: source, prot: 3, size: page, steps: "fkps", order: 5})       // here the other one
		add(specArgs{source: source, prot: 3, size: page, steps: "y"})                    // not shared
		add(specArgs{source: source, prot: 3, size: page, steps: "ys"})                   // only on persistent memory
		add(specArgs{source: source, prot: 4, size: page, steps: "rs", reserve: 1 << 20}) // executable, with a reserve
	}
	plain := specArgs{source: specAnonymous, prot: 3, size: page, addr: 1 << 20, addr2: 1<<20 + 4*uint64(page),
		align: 4 * page, align2: 16 * page, reserve: 2 * page, more: 6 * page, huge2: 2 << 20, order: 9, kept: 1}
	for _, steps := range []string{
		"rR", "Rr", // the last capacity wins
		"lL", "Ll", // and the last alignment
		"hH", "Hh", // and the last size of huge pages
		"a", "o", "n", // each placement
		"an", "na", "aa", "nn", "oa", "aA", // two of them, even the same one twice
		"al", "lo", // an address that is a multiple
		"wa", "aw", "wn", "w", "wl", "wr", "wh", // low, and where else
		"d", "ds", "sd", "dk", "fd", "hd", "dr", "du", "dp", // droppable, and what that excludes
		"shr", "uhr", "khR", // huge pages with a reserve
		"sukrpcl",       // all that goes together
		"lLrRkfsupcnw",  // with repeats
		"s\x00\xffq~kz", // any byte stands for a step
	} {
		a := plain
		a.steps = steps
		add(a)
	}
	bad := func(change func(a *specArgs)) {
		a := plain
		change(&a)
		add(a)
	}
	bad(func(a *specArgs) { a.steps, a.reserve = "rR", 1 })                                    // a bad capacity is mended by a good one
	bad(func(a *specArgs) { a.steps, a.more = "rR", 1 })                                       // and the other way round
	bad(func(a *specArgs) { a.steps, a.align = "l", 48 })                                      // no power of two
	bad(func(a *specArgs) { a.steps, a.align = "lL", -8 })                                     // mended
	bad(func(a *specArgs) { a.steps, a.huge2 = "H", 3<<20 })                                   // no size of a huge page
	bad(func(a *specArgs) { a.steps, a.addr = "a", 0 })                                        // address 0
	bad(func(a *specArgs) { a.steps, a.addr = "a", 1<<20+1 })                                  // no page boundary
	bad(func(a *specArgs) { a.steps, a.source, a.offset, a.addr = "a", specFile, 9, 1<<20+9 }) // congruent with the file offset
	bad(func(a *specArgs) { a.steps, a.source, a.offset, a.align = "l", specFD, 8, 8 })        // an alignment that an offset allows
	bad(func(a *specArgs) { a.steps, a.size, a.reserve = "r", 0, 0 })                          // empty
	bad(func(a *specArgs) { a.steps, a.size = "sr", 0 })                                       // empty, with a capacity
	bad(func(a *specArgs) { a.steps, a.size = "r", -1 })                                       // negative
	bad(func(a *specArgs) { a.source, a.offset, a.size = specFile, math.MaxInt64, 1 })         // past the largest offset
	bad(func(a *specArgs) { a.steps, a.prot = "k", 8 })                                        // no such permission
	bad(func(a *specArgs) { a.steps, a.prot = "kr", 0 })                                       // locked, and nothing to fault in
	bad(func(a *specArgs) { a.steps, a.prot, a.source = "s", 2, specReadOnly })                // what the file does not allow

	if seeding() {
		random := rand.New(rand.NewPCG(5, 0))
		for range 200 {
			a := plain
			a.source, a.order, a.kept = uint8(1+random.IntN(specSecret)), random.Uint64(), uint8(random.Uint32())
			for range 2 + random.IntN(5) {
				step := specSteps[random.IntN(len(specSteps))]
				a.steps += step.letters[random.IntN(len(step.letters)):][:1]
			}
			add(a)
		}
	}

	dir := f.TempDir()
	fixed := &specTest{arena: newArena(f), name: filepath.Join(dir, "file")}
	contents := make([]byte, 12*onePage)
	if err := os.WriteFile(fixed.name, contents, 0o600); err != nil {
		f.Fatal(err)
	}
	open := func(file *os.File, err error) *os.File {
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() { file.Close() })
		return file
	}
	file := open(mmap.Memfd("specs", int64(len(contents)), 0))
	fixed.files = [specSources]*os.File{specFile: file, specFD: file,
		specReadOnly: open(os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))), specClosed: open(os.Open(fixed.name))}
	fixed.files[specClosed].Close()
	var err error
	if fixed.table, err = procmaps.Open(0); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { fixed.table.Close() })
	strict, _ := os.ReadFile("/proc/sys/vm/overcommit_memory")

	f.Fuzz(func(t *testing.T, source, prot uint8, size, offset int64, steps string, addr, addr2 uint64, align, align2, reserve, more, huge, huge2 int64, order uint64, kept uint8) {
		p := plan{source: source % specSources, prot: mmap.Prot(prot), size: size, offset: offset}
		for _, n := range []int64{size, align, align2, reserve, more, huge, huge2} {
			if int64(int(n)) != n {
				t.Skip("wider than an int of this processor")
			}
		}
		if len(steps) > 16 {
			t.Skip("all is said twice by then")
		}
		if p.source == specPath {
			p.size, p.offset = int64(len(contents)), 0
		}
		if !p.isFile() {
			p.offset = 0
		}
		where := func(addr uint64) int64 {
			if addr == 0 {
				return 0
			}
			return int64(uint64(fixed.arena.start) + addr%uint64(fixed.arena.end-fixed.arena.start))
		}
		args := [2][4]int64{{where(addr), align, reserve, huge}, {where(addr2), align2, more, huge2}}
		most := max(p.size, reserve, more)
		step := func(s mmap.Spec, p *plan, b byte) (mmap.Spec, int) {
			for _, step := range specSteps {
				if i := strings.IndexByte(step.letters, b); i >= 0 {
					return step.do(s, p, args[i][max(0, min(step.group-1, 3))]), step.group
				}
			}
			panic(b)
		}
		// Nothing of this may eat the memory of the machine, or replace what is
		// beyond the arena.
		const letters = "snNaAoOlLrRhHpckfuwdy"
		keys := []byte(steps)
		for i, b := range keys {
			if strings.IndexByte(letters, b) < 0 {
				keys[i] = letters[int(b)%len(letters)]
			}
			switch b := keys[i]; {
			case most > 1<<20 && strings.IndexByte("pckf", b) >= 0,
				most > int64(arenaPages*onePage) && strings.IndexByte("oO", b) >= 0:
				keys[i] = 'u'
			}
		}
		onto := bytes.ContainsAny(keys, "oO")
		switch {
		case onto && bytes.ContainsAny(keys, "hH"):
			t.Skip("replaces more than the arena")
		case p.source == specSecret && most > 1<<20:
			t.Skip("secret memory is locked with its whole capacity")
		case sys.Race && most > 1<<40:
			t.Skip("it may reach the Go heap of a race build")
		}

		first := fixed.source(&p)
		last := p
		spec, keptSpec, keptPlan := first, first, last
		var before outcome
		var groups [12][]byte
		for i, b := range keys {
			if i == int(kept)%len(keys) {
				keptSpec, keptPlan = spec, last
				before, _ = fixed.outcome(t, keptSpec, &keptPlan)
			}
			var group int
			spec, group = step(spec, &last, b)
			groups[group] = append(groups[group], b)
		}
		if last.source == specSecret {
			last.lock = "" // it is locked already
		}
		got, failed := fixed.outcome(t, spec, &last)
		fixed.judge(t, spec, &last, got, failed, string(strict[:1]) == "2")

		if len(keys) == 0 {
			return
		}
		if after, _ := fixed.outcome(t, keptSpec, &keptPlan); after != before {
			t.Fatalf("%v, kept: was %+v, is %+v", keptSpec, before, after)
		}
		// The same in another order, which a group keeps to.
		random, other, ignored := rand.New(rand.NewPCG(order, 0)), first, p
		for range keys {
			i := random.IntN(len(groups))
			for len(groups[i]) == 0 {
				i = (i + 1) % len(groups)
			}
			other, _ = step(other, &ignored, groups[i][0])
			groups[i] = groups[i][1:]
		}
		if again, err := fixed.outcome(t, other, &last); again != got {
			t.Fatalf("%s of %v: %+v, %v; in another order %+v, %v", keys, first, got, failed, again, err)
		}
	})
}

// judge compares an outcome with the rules.
func (f *specTest) judge(t *testing.T, s mmap.Spec, p *plan, got outcome, err error, strict bool) {
	var broken []error
	for _, rule := range p.musts() {
		if rule.broken {
			broken = append(broken, rule.err)
		}
	}
	if err == nil {
		want := p.expected()
		if strict {
			want.flags, got.flags = strings.ReplaceAll(want.flags, "nr", ""), strings.ReplaceAll(got.flags, "nr", "")
		}
		if len(broken) > 0 || got != want {
			t.Fatalf("%v as %v: got\n%+v, want\n%+v, %v", s, p.prot, got, want, broken)
		}
		return
	}
	for _, rule := range p.mays() {
		if rule.broken {
			broken = append(broken, rule.err)
		}
	}
	for _, reason := range broken {
		if errors.Is(err, reason) {
			return
		}
	}
	t.Fatalf("%v as %v: %v, want %v", s, p.prot, err, broken)
}
