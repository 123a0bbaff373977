#include "idistill/data/parallel_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <utility>

#include "idistill/comm/mpi_handle.hpp"
#include "idistill/comm/pointer_file.hpp"

namespace idistill::data {
namespace {

h5::Handle access_of(const comm::Communicator& communicator) {
    h5::Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_libver_bounds(access.get(), H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST);
    if (comm::is_mpi(communicator)) {
        H5Pset_fapl_mpio(access.get(), comm::mpi_handle(communicator), MPI_INFO_NULL);
        return access;
    }
    H5Pset_sieve_buf_size(access.get(), 0);              // as with MPI-IO, rows go to the file when they are written,
    H5Pset_fclose_degree(access.get(), H5F_CLOSE_SEMI);  // and closing fails where a dataset is still open
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(access.get(), false, true);
#endif
    return access;
}

hid_t open_existing(const char* path, hid_t access) { return H5Fopen(path, H5F_ACC_RDWR, access); }

/// Calls `call`, in which HDF5 waits for the other ranks of MPI without end: the stall timeout holds there too.
template <class Call>
auto while_blocked(comm::Communicator& communicator, std::string what, const Call& call) {
    if (!comm::is_mpi(communicator)) return call();
    const comm::BlockingCall blocking(communicator, std::move(what));
    return call();
}

[[noreturn]] void system_failure(const std::string& path, const std::string& action, int error) {
    throw Error(error == ENOSPC || error == EDQUOT ? ExitCode::too_large : ExitCode::usage,
                {.where = path,
                 .field = "",
                 .expected = "to " + action + " this file",
                 .found = std::strerror(error),
                 .remedy = "Check folder, permissions and free space, or choose another --out."});
}

void sync_to_disk(const std::string& path, int flags) {
    const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC);
    if (descriptor < 0) system_failure(path, "open", errno);
    const int error = ::fsync(descriptor) == 0 ? 0 : errno;
    ::close(descriptor);
    if (error != 0 && error != EINVAL) system_failure(path, "flush", error);  // EINVAL: nothing to flush there
}

}  // namespace

ParallelFile::ParallelFile(comm::Communicator& communicator, h5::File opened)
    : file(std::move(opened)), communicator_(&communicator), exceptions_(std::uncaught_exceptions()) {}

// HDF5 knows a file that its process has open already: what threads open after rank 0 has the same cache, so that each
// sees at once what another one wrote.
ParallelFile ParallelFile::on_all_ranks(comm::Communicator& communicator, h5::File file, const std::string& action,
                                        const Open& open) {
    const auto open_by = [&](const Open& way) {
        const h5::Lock lock;
        const h5::Handle access = access_of(communicator);
        while_blocked(communicator, "H5F" + action + " of " + file.path,
                      [&] { file.handle = h5::Handle(way(file.path.c_str(), access.get()), H5Fclose); });
        if (!file.handle.valid()) h5::fail(file, "", action);
    };
    if (comm::is_mpi(communicator)) {
        open_by(open);
    } else {
        if (communicator.is_root()) open_by(open);
        communicator.barrier();
        if (!communicator.is_root()) open_by(open_existing);
    }
    ParallelFile made(communicator, std::move(file));
    communicator.barrier();  // every rank has the pointer file open
    if (communicator.is_root()) comm::remove_pointer_files(made.file.path);
    return made;
}

ParallelFile ParallelFile::create(comm::Communicator& communicator, const std::string& path, ExitCode code,
                                  const std::string& remedy) {
    return on_all_ranks(communicator, {{}, path, code, remedy}, "create", [](const char* name, hid_t access) {
        return H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    });
}

ParallelFile ParallelFile::open(comm::Communicator& communicator, const std::string& path, ExitCode code,
                                const std::string& remedy) {
    return on_all_ranks(communicator, {{}, path, code, remedy}, "open", open_existing);
}

ParallelFile::~ParallelFile() {
    if (std::uncaught_exceptions() > exceptions_ && comm::is_mpi(*communicator_)) (void)file.handle.release();
}

void ParallelFile::together(const std::string& what, const std::function<void()>& change) {
    const bool mpi = comm::is_mpi(*communicator_);
    if (mpi || communicator_->is_root()) while_blocked(*communicator_, what + " in " + file.path, change);
    if (!mpi) communicator_->barrier();
}

// Flush, barrier, flush: what MPI asks for before one process sees what another one wrote. The barrier in front waits
// for late ranks within the stall timeout, which HDF5's own waiting does not.
void ParallelFile::flush() {
    communicator_->barrier();
    const auto once = [&] {
        const h5::Lock lock;
        const herr_t flushed = while_blocked(*communicator_, "H5Fflush of " + file.path,
                                             [&] { return H5Fflush(file.handle.get(), H5F_SCOPE_GLOBAL); });
        if (flushed < 0) h5::fail(file, "", "flush");
    };
    once();
    communicator_->barrier();
    once();
}

void ParallelFile::close() {
    flush();
    const bool closed = while_blocked(*communicator_, "H5Fclose of " + file.path, [&] { return file.handle.close(); });
    if (!closed) h5::fail(file, "", "close");
    communicator_->barrier();
}

void await_closing(comm::Communicator& communicator) {
    if (!comm::is_mpi(communicator)) communicator.barrier();
}

void require_creatable(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor < 0) system_failure(path, "create", errno);
    ::close(descriptor);
}

void rename_durably(const std::string& from, const std::string& to) {
    sync_to_disk(from, O_RDONLY);
    if (std::rename(from.c_str(), to.c_str()) != 0) system_failure(to, "rename " + from + " to", errno);
    const auto folder = std::filesystem::path(to).parent_path();
    sync_to_disk(folder.empty() ? "." : folder.string(), O_RDONLY | O_DIRECTORY);
}

}  // namespace idistill::data
