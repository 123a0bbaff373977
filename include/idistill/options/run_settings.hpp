#pragma once
// Settings that belong to no member of a family: inputs, output, and how the run is run.

#include <cstdint>
#include <string>
#include <vector>

namespace idistill::options {

/// A named task and its token file.
struct Target {
    std::string name;
    std::string path;
};

/// One column of influence per target sample, or per task.
enum class ColumnKind : std::uint8_t { samples, tasks };

struct InputSettings {
    std::string model;
    std::vector<std::string> pool;
    std::vector<Target> targets;
    bool landmark_targets = false;  ///< --target pool: the labelled samples of the pool, in place of files
    std::string result;             ///< `select` only: the existing result
    std::string out;
    bool overwrite = false;
    bool drop_overlap = false;
    ColumnKind columns = ColumnKind::samples;

    /// The file of a task, for errors.
    [[nodiscard]] std::string path_of_target(std::size_t task) const {
        return landmark_targets ? "--target pool" : targets[task].path;
    }
};

enum class DeviceKind : std::uint8_t { automatic, cpu, cuda };
enum class DtypeKind : std::uint8_t { automatic, fp32, bf16 };

/// Of every rank alike, once a GPU is chosen (stages/device.cpp); no option.
struct GpuFacts {
    std::string name = {};  ///< empty on CPUs
    double bytes = 0, free_bytes = 0, flops_per_second = 0;
};

struct RunSettings {
    std::uint64_t seed = 43;
    DeviceKind device = DeviceKind::automatic;
    DtypeKind dtype = DtypeKind::automatic;
    GpuFacts gpu = {};
    int threads = 1;
    std::int64_t batch_tokens = 2048;
    bool batch_tokens_given = false;  ///< otherwise what a GPU's memory holds
    /// Planned cost of one work unit: 10 s at 50 GFLOP/s, and so at most 30 s on the slowest core that a run is meant
    /// for.
    double unit_flops = 5e11;
    bool unit_flops_given = false;  ///< otherwise on a GPU as many seconds
    double stall_timeout_seconds = 600.0;
};

}  // namespace idistill::options
