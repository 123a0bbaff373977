#pragma once
// What tests of ranks with GPUs share: on NCCL itself, or on fake_nccl.cpp.

#include <boost/test/unit_test.hpp>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "device_memory.hpp"
#include "idistill/comm/device_collectives.hpp"
#include "idistill/comm/mpi.hpp"

namespace idistill::test {

inline boost::test_tools::assertion_result with_gpu(boost::unit_test::test_unit_id) { return load_cuda(); }
inline boost::test_tools::assertion_result with_fake(boost::unit_test::test_unit_id) { return is_fake(); }

/// Ranks with their GPUs, and a certain stall timeout.
struct Connected {
    std::unique_ptr<comm::Communicator> ranks;
    explicit Connected(std::size_t piece = comm::largest_device_piece, double stall_timeout = 30.0)
        : ranks(comm::make_mpi_communicator(stall_timeout)) {
        load_cuda();
        library = comm::connect_devices(*ranks, piece);
    }
    std::string library;
    [[nodiscard]] comm::Collectives& device() const { return *ranks->device(); }
};

inline std::vector<std::int64_t> payloads(int rank, std::size_t count) {
    std::vector<std::int64_t> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = 1000003LL * (rank + 1) + static_cast<std::int64_t>(i * i);
    return values;
}

/// Calls of the fake so far, with their arguments.
inline std::vector<std::string> calls_of(const std::string& name) {
    std::istringstream all(loaded<const char*()>("fake_nccl_calls")());
    std::vector<std::string> calls;
    for (std::string line; std::getline(all, line);)
        if (line.starts_with(name)) calls.push_back(line);
    return calls;
}

/// Of NCCL's, in the fake.
inline int communicators() { return loaded<int()>("fake_nccl_communicators")(); }

}  // namespace idistill::test
