// What idistill uses of CUDA's runtime, without a GPU; fake_nccl.cpp says how it is used.

#include "fake_cuda.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <sstream>

namespace {

constexpr int success = 0, invalid_value = 1, out_of_memory = 2, not_ready = 600;  // of cudaError_t

struct Mapping {
    std::size_t bytes;
    char* inside;  // the same memory, as the device sees it
};

struct Event {
    std::int64_t number = 0;
};

// Never destroyed: the stream's thread lives until the process ends.
std::mutex& memory_mutex = *new std::mutex;
std::map<char*, Mapping>& memory = *new std::map<char*, Mapping>;
std::mutex& calls_mutex = *new std::mutex;
std::string& calls = *new std::string;

int my_rank() { return std::atoi(fake::variable("OMPI_COMM_WORLD_RANK").c_str()); }

}  // namespace

namespace fake {

char* inside(const void* address) {
    const std::scoped_lock lock(memory_mutex);
    auto* const wanted = static_cast<char*>(const_cast<void*>(address));
    auto after = memory.upper_bound(wanted);
    if (after == memory.begin()) return wanted;
    const auto& [base, mapping] = *std::prev(after);
    return wanted < base + mapping.bytes ? mapping.inside + (wanted - base) : wanted;
}

DefaultStream& stream() {
    static auto& made = *new DefaultStream;
    return made;
}

Fault note(const std::string& call, const std::string& more) {
    static std::string fault;
    static std::map<std::string, int> count;
    const std::scoped_lock lock(calls_mutex);
    calls += call + more + "\n";
    if (fault != variable("FAKE_NCCL_FAULT")) {
        fault = variable("FAKE_NCCL_FAULT");
        count.clear();
    }
    ++count[call];
    std::istringstream faults(fault);
    for (std::string one; std::getline(faults, one, ',');) {
        std::istringstream parts(one);
        std::string rank, name, number, kind;
        std::getline(std::getline(std::getline(std::getline(parts, rank, ':'), name, ':'), number, ':'), kind);
        if (name != call || rank != std::to_string(my_rank()) || number != std::to_string(count[call])) continue;
        const auto equals = kind.find('=');
        return {kind.substr(0, equals), equals == std::string::npos ? 0 : std::atoi(kind.c_str() + equals + 1)};
    }
    return {};
}

std::string noted() {
    const std::scoped_lock lock(calls_mutex);
    return calls;
}

}  // namespace fake

using fake::inside, fake::note, fake::stream;

extern "C" {

int cudaMalloc(void** address, std::size_t bytes) {
    const std::size_t page = 4096;
    const std::size_t size = std::max(page, (bytes + page - 1) / page * page);
    const int file = ::memfd_create("fake device memory", MFD_CLOEXEC);
    if (file < 0 || ::ftruncate(file, static_cast<off_t>(size)) != 0) return out_of_memory;
    auto* const outside = static_cast<char*>(::mmap(nullptr, size, PROT_NONE, MAP_SHARED, file, 0));
    auto* const within = static_cast<char*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    ::close(file);
    const std::scoped_lock lock(memory_mutex);
    memory[outside] = {size, within};
    *address = outside;
    return success;
}

int cudaFree(void* address) {
    stream().finish();
    const std::scoped_lock lock(memory_mutex);
    const auto found = memory.find(static_cast<char*>(address));
    if (found == memory.end()) return invalid_value;
    ::munmap(found->second.inside, found->second.bytes);
    ::munmap(found->first, found->second.bytes);
    memory.erase(found);
    return success;
}

int cudaMemcpy(void* to, const void* from, std::size_t bytes, int) {
    stream().finish();
    if (bytes > 0) std::memcpy(inside(to), inside(from), bytes);
    return success;
}

int cudaSetDevice(int) { return success; }

int cudaEventCreateWithFlags(Event** event, unsigned) {
    *event = new Event;
    return success;
}

int cudaEventRecord(Event* event, void*) {
    event->number = stream().added();
    return success;
}

int cudaEventQuery(Event* event) {
    const auto fault = note("cudaEventQuery");
    if (fault.kind == "code") return fault.value;
    return stream().has_done(event->number) ? success : not_ready;
}

int cudaEventDestroy(Event* event) {
    delete event;
    return success;
}

int cudaStreamSynchronize(void*) {
    const auto fault = note("cudaStreamSynchronize");
    if (fault.kind == "code") return fault.value;
    stream().finish();
    return success;
}

const char* cudaGetErrorString(int error) {
    return error == 700 ? "an illegal memory access was encountered" : "some error";
}

}  // extern "C"
