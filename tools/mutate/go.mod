module github.com/mmarinus/mmap/tools/mutate

go 1.26.0
