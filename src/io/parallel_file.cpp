#include "parallel_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <utility>

#include "idistill/comm/mpi_handle.hpp"
#include "idistill/comm/pointer_file.hpp"

namespace idistill::io {
namespace {

h5::Handle parallel_access(const comm::Communicator& communicator) {
    h5::Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_fapl_mpio(access.get(), comm::mpi_handle(communicator), MPI_INFO_NULL);
    H5Pset_libver_bounds(access.get(), H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST);
    return access;
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

ParallelFile ParallelFile::on_all_ranks(comm::Communicator& communicator, h5::File file, const std::string& action,
                                        const std::function<hid_t(hid_t access)>& open_all) {
    {
        const h5::Lock lock;
        const h5::Handle access = parallel_access(communicator);
        const comm::BlockingCall blocking(communicator, "H5F" + action + " of " + file.path);
        file.handle = h5::Handle(open_all(access.get()), H5Fclose);
        if (!file.handle.valid()) h5::fail(file, "", action);
    }
    ParallelFile made(communicator, std::move(file));
    communicator.barrier();  // every rank has the pointer file open
    if (communicator.is_root()) comm::remove_pointer_files(made.file.path);
    return made;
}

ParallelFile ParallelFile::create(comm::Communicator& communicator, const std::string& path, ExitCode code,
                                  const std::string& remedy) {
    return on_all_ranks(communicator, {{}, path, code, remedy}, "create",
                        [&path](hid_t access) { return H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access); });
}

ParallelFile ParallelFile::open(comm::Communicator& communicator, const std::string& path, ExitCode code,
                                const std::string& remedy) {
    return on_all_ranks(communicator, {{}, path, code, remedy}, "open",
                        [&path](hid_t access) { return H5Fopen(path.c_str(), H5F_ACC_RDWR, access); });
}

ParallelFile::~ParallelFile() {
    if (std::uncaught_exceptions() > exceptions_) (void)file.handle.release();
}

// Flush, barrier, flush: what MPI asks for before one process sees what another one wrote. The barrier in front waits
// for late ranks within the stall timeout, which HDF5's own waiting does not.
void ParallelFile::flush() {
    communicator_->barrier();
    const auto once = [&] {
        const h5::Lock lock;
        const comm::BlockingCall blocking(*communicator_, "H5Fflush of " + file.path);
        if (H5Fflush(file.handle.get(), H5F_SCOPE_GLOBAL) < 0) h5::fail(file, "", "flush");
    };
    once();
    communicator_->barrier();
    once();
}

void ParallelFile::close() {
    flush();
    const bool closed = [&] {
        const comm::BlockingCall blocking(*communicator_, "H5Fclose of " + file.path);
        return file.handle.close();
    }();
    if (!closed) h5::fail(file, "", "close");
    communicator_->barrier();
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

}  // namespace idistill::io
