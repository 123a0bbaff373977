#include "idistill/work/run_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "idistill/base/error.hpp"
#include "idistill/base/log.hpp"
#include "idistill/comm/pointer_file.hpp"

namespace idistill::work {
namespace {

enum class Taken { yes, no, not_supported };

/// A lock of the open file, not of the process: it also holds between two runs of one process (tests).
Taken take(int descriptor) {
    struct flock request {};
    request.l_type = F_WRLCK;
    request.l_whence = SEEK_SET;
    if (::fcntl(descriptor, F_OFD_SETLK, &request) == 0) return Taken::yes;
    return errno == EAGAIN || errno == EACCES ? Taken::no : Taken::not_supported;
}

/// The holder before us may have removed the file between our open and our lock: then the lock is on nothing.
bool is_still_at(const std::string& path, int descriptor) {
    struct stat named {};
    struct stat opened {};
    return ::stat(path.c_str(), &named) == 0 && ::fstat(descriptor, &opened) == 0 && named.st_ino == opened.st_ino &&
           named.st_dev == opened.st_dev;
}

std::string holder_in(int descriptor) {
    std::array<char, 256> text{};
    const ssize_t length = ::pread(descriptor, text.data(), text.size(), 0);
    return length > 0 ? std::string(text.data(), static_cast<std::size_t>(length)) : "another process";
}

void write_holder(int descriptor) {
    std::array<char, 128> host{};
    ::gethostname(host.data(), host.size() - 1);
    const std::string text = "process " + std::to_string(::getpid()) + " on host " + host.data();
    if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, text.data(), text.size(), 0) < 0) {
        say(std::string("warning: the lock file cannot name its holder: ") + std::strerror(errno));
    }
}

struct Locked {
    int descriptor = -1;
    bool alone = false;  ///< no other job has the lock; unknown on a file system without locks
};

/// A file system without locks is used without one, with a warning.
Locked lock_file(const std::string& path) {
    while (true) {
        const int descriptor = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
        if (descriptor < 0) {
            throw Error(ExitCode::usage, {.where = path,
                                          .field = "",
                                          .expected = "to create this lock file",
                                          .found = std::strerror(errno),
                                          .remedy = "Check folder and permissions, or choose another --out."});
        }
        const Taken taken = take(descriptor);
        if (taken == Taken::no) {
            const std::string holder = holder_in(descriptor);
            ::close(descriptor);
            throw Error(ExitCode::locked, {.where = path,
                                           .field = "",
                                           .expected = "no other job with this --out",
                                           .found = holder,
                                           .remedy = "Wait for it, stop it, or choose another --out."});
        }
        if (taken == Taken::not_supported) {
            say(
                fmt::format("warning: {}: this file system has no locks ({}): take care that no other job has the same "
                            "--out",
                            path, std::strerror(errno)));
        } else if (!is_still_at(path, descriptor)) {
            ::close(descriptor);
            continue;
        }
        write_holder(descriptor);
        return {descriptor, taken == Taken::yes};
    }
}

}  // namespace

RunLock::RunLock(comm::Communicator& communicator, const std::string& out) : path_(out + ".lock") {
    if (communicator.is_root()) {
        const auto locked = lock_file(path_);
        descriptor_ = locked.descriptor;
        if (locked.alone)
            for (const char* suffix : {".state", ".state.new", ".partial"}) comm::remove_pointer_files(out + suffix);
    }
    communicator.barrier();
}

RunLock::~RunLock() {
    if (descriptor_ < 0) return;
    ::unlink(path_.c_str());  // before the lock ends: whoever opens the path from now on makes a file of its own
    ::close(descriptor_);
}

}  // namespace idistill::work
