#pragma once

#include <functional>
#include <string>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/hdf5_handle.hpp"

namespace idistill::io {

/// A file that all ranks of a communicator have open for writing. All members are collective, except taking `file` to
/// read and write rows. While an exception unwinds the file is given up without closing it: closing would wait for all
/// ranks.
class ParallelFile {
public:
    static ParallelFile create(comm::Communicator& communicator, const std::string& path, ExitCode code,
                               const std::string& remedy);
    static ParallelFile open(comm::Communicator& communicator, const std::string& path, ExitCode code,
                             const std::string& remedy);
    ~ParallelFile();
    ParallelFile(ParallelFile&&) noexcept = default;
    ParallelFile& operator=(ParallelFile&&) = delete;

    /// What every rank wrote is on disk and seen by every rank.
    void flush();
    /// As flush; the file cannot be used afterwards. Datasets must have been closed before.
    void close();

    h5::File file;

private:
    static ParallelFile on_all_ranks(comm::Communicator& communicator, h5::File file, const std::string& action,
                                     const std::function<hid_t(hid_t access)>& open_all);
    ParallelFile(comm::Communicator& communicator, h5::File opened);

    comm::Communicator* communicator_;
    int exceptions_;
};

/// Makes an empty file on this rank alone, so that a missing folder or permission is reported by one rank, in plain
/// words.
void require_creatable(const std::string& path);

/// Gives the file its final name, for good: also after a power failure. One rank.
void rename_durably(const std::string& from, const std::string& to);

}  // namespace idistill::io
