// What every rank computes on: chosen once, by all ranks together, before anything is planned.

#include "device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "idistill/base/error.hpp"
#include "idistill/comm/device_collectives.hpp"
#include "idistill/comm/node.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/model/cuda.hpp"
#include "idistill/model/model_config.hpp"
#include "idistill/propagation/propagation.hpp"
#include "run.hpp"

namespace idistill::stages {
namespace {

using options::DeviceKind;
using options::DtypeKind;

const std::string device_option = "--device cuda, or auto where a rank sees a GPU";
constexpr double gpu_unit_flops = 2e15;  // some seconds
constexpr double counted_share = 0.4;    // of the speed of large products, for the times of a plan
constexpr std::int64_t fewest_batch_tokens = 1024, most_batch_tokens = 32768;

std::vector<SeenGpus> everyones(comm::Communicator& comm, const model::cuda::Gpus& mine) {
    nlohmann::json text{{"host", comm::host_name()}, {"why", mine.why_none}, {"gpus", nlohmann::json::array()}};
    for (const auto& gpu : mine.gpus) text["gpus"].push_back({gpu.uuid, gpu.name});
    std::vector<SeenGpus> all;
    for (const auto& one : comm.all_gather(text.dump())) {
        const auto parsed = nlohmann::json::parse(one);
        auto& seen = all.emplace_back(SeenGpus{parsed["host"], {}, {}, parsed["why"]});
        for (const auto& gpu : parsed["gpus"]) {
            seen.uuids.push_back(gpu[0]);
            seen.names.push_back(gpu[1]);
        }
    }
    return all;
}

bool wants_gpus(DeviceKind kind, const std::vector<SeenGpus>& all, const options::Values& values) {
    if (kind != DeviceKind::automatic) return kind == DeviceKind::cuda;
    return std::any_of(all.begin(), all.end(), [](const SeenGpus& seen) { return !seen.uuids.empty(); }) &&
           runs_model(values);
}

/// A power of two that half of what is left beside the weights holds, by the pass that takes most.
std::int64_t fitting_batch_tokens(const model::ModelConfig& config, double bytes, DtypeKind dtype) {
    const double narrow = dtype == DtypeKind::bf16 ? 0.5 : 1.0;
    const plan::Batch thousand{.rows = 8, .tokens = 1024, .samples = 8, .labels = 512, .longest = 512};
    const double per_token = narrow * model::gradient_activation_bytes(config, 0, thousand, thousand.labels) / 1024.0;
    const double tokens = 0.5 * (bytes - narrow * model::weight_bytes(config)) / per_token;
    std::int64_t fitting = fewest_batch_tokens;
    while (2 * fitting <= most_batch_tokens && static_cast<double>(2 * fitting) <= tokens) fitting *= 2;
    return fitting;
}

}  // namespace

std::vector<std::size_t> assigned_gpus(const std::vector<SeenGpus>& all) {
    std::vector<std::size_t> gpu;
    std::vector<std::string> taken;
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
        const auto& seen = all[rank];
        if (seen.uuids.empty())
            throw Error(ExitCode::usage,
                        {device_option, fmt::format("rank {} on {}", rank, seen.host), "a GPU", seen.why_none,
                         "Start as many ranks on a node as it has GPUs, or use --device cpu."});
        const auto free = std::find_if(seen.uuids.begin(), seen.uuids.end(), [&](const std::string& uuid) {
            return std::find(taken.begin(), taken.end(), uuid) == taken.end();
        });
        if (free == seen.uuids.end())
            throw Error(ExitCode::usage,
                        {device_option, fmt::format("rank {} on {}", rank, seen.host), "a GPU that no other rank has",
                         fmt::format("{}, taken by ranks before it", seen.uuids.front()),
                         "Start as many ranks on a node as it has GPUs (srun --ntasks-per-node, --gpus-per-task 1)."});
        if (seen.names[static_cast<std::size_t>(free - seen.uuids.begin())] != all.front().names.front())
            throw Error(ExitCode::usage,
                        {device_option, fmt::format("rank {} on {}", rank, seen.host), all.front().names.front(),
                         seen.names[static_cast<std::size_t>(free - seen.uuids.begin())],
                         "Give all ranks GPUs of one model: others give other bits."});
        gpu.push_back(static_cast<std::size_t>(free - seen.uuids.begin()));
        taken.push_back(*free);
    }
    return gpu;
}

void check_libraries(const std::vector<std::string>& all) {
    for (std::size_t rank = 1; rank < all.size(); ++rank)
        if (all[rank] != all.front())
            throw Error(
                ExitCode::usage,
                {device_option, fmt::format("libraries of rank {}", rank), all.front() + ", as on rank 0", all[rank],
                 "Give every node the same LibTorch and the same libidistill_cuda.so beside the program, or "
                 "none: others give other bits."});
}

bool runs_model(const options::Values& values) {
    if (values.command == options::Command::select) return false;
    if (values.command == options::Command::embed) return true;
    if (influence::make_influence(values)->runs_model()) return true;
    auto looked = values;
    embedding::look_at_files(looked);
    const auto propagation = propagation::make_propagation(looked);
    return propagation && propagation->reads_weights();
}

options::Values choose_device(const options::Values& values, comm::Communicator& comm) {
    auto chosen = values;
    auto& run = chosen.of<options::RunSettings>();
    if (values.command == options::Command::select) return chosen;
    const auto mine = run.device == DeviceKind::cpu ? model::cuda::Gpus{} : model::cuda::visible_gpus();
    const auto all = everyones(comm, mine);
    if (!wants_gpus(run.device, all, values)) {
        run.device = DeviceKind::cpu;
        if (run.dtype == DtypeKind::automatic) run.dtype = DtypeKind::fp32;
        return chosen;
    }
    run.device = DeviceKind::cuda;
    if (run.dtype == DtypeKind::automatic) run.dtype = DtypeKind::bf16;
    const auto own = assigned_gpus(all)[static_cast<std::size_t>(comm.rank())];
    model::cuda::use_gpu(mine.gpus[own].number);
    const auto type = run.dtype == DtypeKind::bf16 ? torch::kBFloat16 : torch::kFloat32;
    const double speed = counted_share * model::cuda::product_flops_per_second(type);
    model::cuda::give_back_unused();
    // GPUs of one name may differ by what the driver keeps, and what others compute there.
    const double free = model::cuda::free_bytes();
    std::array least{static_cast<std::int64_t>(mine.gpus[own].bytes), static_cast<std::int64_t>(free)};
    comm.all_reduce(std::span<std::int64_t>(least), comm::Reduction::min);
    run.gpu = {mine.gpus[own].name, static_cast<double>(least[0]), static_cast<double>(least[1]), speed};
    if (!run.batch_tokens_given)
        run.batch_tokens = fitting_batch_tokens(model::read_model_config(values.of<options::InputSettings>().model),
                                                run.gpu.bytes, run.dtype);
    if (!run.unit_flops_given) run.unit_flops = gpu_unit_flops;
    const auto places =
        comm.all_gather(fmt::format("rank {} on {}: {}, {:.0f} GB, {:.0f} GB free", comm.rank(), comm::host_name(),
                                    run.gpu.name, mine.gpus[own].bytes * 1e-9, free * 1e-9));
    for (const auto& place : places) say(comm, place);
    const auto libraries = comm.all_gather(model::cuda::libraries());
    check_libraries(libraries);
    say(comm, libraries.front());
    if (comm.size() > 1 && values.command == options::Command::run && !values.plan_only)
        say(comm, fmt::format("{} between the GPUs", comm::connect_devices(comm)));
    return chosen;
}

}  // namespace idistill::stages
