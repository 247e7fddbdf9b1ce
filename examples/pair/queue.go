package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/mmarinus/mmap"
)

const header, size = 256, header + 1<<20 // bytes: both sides, and the data after them

// A side is what one process tells the other. Only atomics mean anything between
// processes. The sides are 128 bytes apart, for processors fetch pairs of lines.
type side struct {
	count  atomic.Uint64 // bytes put in so far, or taken out
	asleep atomic.Uint32 // 1: wants the bell to be rung
	ended  atomic.Uint32 // not 0: no more will be put in
	_      [112]byte
}

type queue struct {
	mine, other *side
	data        []byte
	bell        io.ReadWriter
}

var errQueue = errors.New("the other process counts more bytes than the queue has")

// attach maps the queue and calls use with it, as process 0 or 1.
func attach(f *os.File, bell io.ReadWriter, who int, use func(*queue) error) error {
	m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, size).Shared())
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Update(func(b []byte) error {
		sides, err := mmap.Slice[side](b[:header])
		if err != nil {
			return err
		}
		return use(&queue{&sides[who], &sides[1-who], b[header:], bell})
	})
}

// wait sleeps until ready, which looks at the other side, reports true.
func (q *queue) wait(ready func() bool) error {
	for !ready() {
		// The other changes its count first and looks at asleep then; here it is
		// the other way round, so one of the two sees what the other did.
		q.mine.asleep.Store(1)
		if ready() && q.mine.asleep.Swap(0) == 1 {
			return nil // else it is ringing: take that, or the rings pile up
		}
		if _, err := io.ReadFull(q.bell, make([]byte, 1)); err != nil {
			if ready() { // it did its work before it went
				return nil
			}
			return fmt.Errorf("the other process is gone: %w", err)
		}
	}
	return nil
}

func (q *queue) wake() {
	if q.other.asleep.Swap(0) == 1 {
		q.bell.Write([]byte{0}) // if it is gone, wait will say so
	}
}

// fill reads into the queue. The count of the other side is checked before it
// becomes an index: the memory is as much the other's as ours.
func (q *queue) fill(in io.Reader) error {
	length := uint64(len(q.data))
	for put := uint64(0); ; {
		var used uint64
		err := q.wait(func() bool { used = put - q.other.count.Load(); return used != length })
		if err != nil {
			return err
		}
		if used > length {
			return errQueue
		}
		at := put % length
		n, err := in.Read(q.data[at:min(length, at+length-used)])
		put += uint64(n)
		q.mine.count.Store(put)
		if err != nil {
			q.mine.ended.Store(1)
		}
		q.wake()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// drain writes what is in the queue until the other side has ended.
func (q *queue) drain(out io.Writer) error {
	length := uint64(len(q.data))
	for taken := uint64(0); ; {
		var used uint64
		err := q.wait(func() bool {
			ended := q.other.ended.Load() != 0 // asked first: then the count is the last one
			used = q.other.count.Load() - taken
			return used > 0 || ended
		})
		if err != nil || used == 0 {
			return err
		}
		if used > length {
			return errQueue
		}
		at := taken % length
		n, err := out.Write(q.data[at:min(length, at+used)])
		if err != nil {
			return err
		}
		taken += uint64(n)
		q.mine.count.Store(taken)
		q.wake()
	}
}
