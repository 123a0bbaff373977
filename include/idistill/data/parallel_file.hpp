#pragma once

#include <functional>
#include <string>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/hdf5_handle.hpp"

namespace idistill::data {

/// A file that all ranks of a communicator have open for writing. All members are collective, except taking `file` to
/// read and write rows. Ranks of MPI open it through MPI-IO; while an exception unwinds they give it up without closing
/// it, since closing would wait for all ranks. Ranks that are threads have one file open together, through the driver
/// of one process: what HDF5 makes collective is done by rank 0 for all, and each closes its own handle without
/// waiting.
class ParallelFile {
public:
    static ParallelFile create(comm::Communicator& communicator, const std::string& path, ExitCode code,
                               const std::string& remedy);
    static ParallelFile open(comm::Communicator& communicator, const std::string& path, ExitCode code,
                             const std::string& remedy);
    ~ParallelFile();
    ParallelFile(ParallelFile&&) noexcept = default;
    ParallelFile& operator=(ParallelFile&&) = delete;

    /// Calls change(), which creates or removes objects or attributes: on every rank, under the stall timeout; of ranks
    /// that are threads on rank 0 alone, before any of them returns. `what` for the message: "creation of /weight".
    void together(const std::string& what, const std::function<void()>& change);
    /// What every rank wrote is on disk and seen by every rank.
    void flush();
    /// As flush; the file cannot be used afterwards. Datasets must have been closed before.
    void close();

    h5::File file;

private:
    using Open = std::function<hid_t(const char* path, hid_t access)>;
    static ParallelFile on_all_ranks(comm::Communicator& communicator, h5::File file, const std::string& action,
                                     const Open& open);
    ParallelFile(comm::Communicator& communicator, h5::File opened);

    comm::Communicator* communicator_;
    int exceptions_;
};

/// Collective. Every rank has closed what it had open before: to be called before a path is looked at that an object
/// which was dropped may have had. Ranks of MPI do not wait, since closing is collective among them.
void await_closing(comm::Communicator& communicator);

/// Makes an empty file on this rank alone, so that a missing folder or permission is reported by one rank, in plain
/// words.
void require_creatable(const std::string& path);

/// Gives the file its final name, for good: also after a power failure. One rank.
void rename_durably(const std::string& from, const std::string& to);

}  // namespace idistill::data
