// Speed of the passes beside the product peak of the same ranks at the same moment: what jobs/bench.sh runs.
//   mpirun -n RANKS bench_passes MODEL TOKENS.h5 SAMPLES ROUNDS
// Every round measures the peak, then one pass, so that a ratio compares neighbours in time; medians over rounds are
// printed. FLOPs are those of config::CostModel: what the mathematics needs.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "idistill/comm/mpi.hpp"
#include "idistill/config/cost_model.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/influence/gradient.hpp"
#include "idistill/propagation/kernel_ridge.hpp"
#include "idistill/selection/selection.hpp"

namespace {

using namespace idistill;
using at::Tensor;

struct Bench {
    comm::Communicator& comm;
    const model::Decoder& decoder;
    const config::ModelConfig& config;
    data::Samples mine;  ///< this rank's share of the samples
    int rounds;
};

/// Seconds of the slowest rank.
double timed(comm::Communicator& comm, const std::function<void()>& work) {
    comm.barrier();
    const auto start = std::chrono::steady_clock::now();
    work();
    auto nanoseconds =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
    std::int64_t slowest = nanoseconds;
    comm.all_reduce(std::span<std::int64_t>(&slowest, 1), comm::Reduction::max);
    return static_cast<double>(slowest) * 1e-9;
}

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

/// FLOP/s of large fp32 products, all ranks at once.
double peak(comm::Communicator& comm) {
    constexpr std::int64_t n = 1536;
    static const Tensor a = at::rand({n, n}), b = at::rand({n, n});
    static Tensor c = at::empty({n, n});
    constexpr int products = 12;
    const double seconds = timed(comm, [] {
        for (int i = 0; i < products; ++i) at::mm_out(c, a, b);
    });
    return 2.0 * n * n * n * products * comm.size() / seconds;
}

std::int64_t sum_over_ranks(comm::Communicator& comm, std::int64_t value) {
    comm.all_reduce(std::span<std::int64_t>(&value, 1), comm::Reduction::sum);
    return value;
}

/// One line: `units` per second, FLOP/s, and that over the peak.
void measure(const Bench& bench, const std::string& name, const char* unit, std::int64_t my_units, double my_flops,
             const std::function<void()>& warm_up, const std::function<void()>& work) {
    const auto units = static_cast<double>(sum_over_ranks(bench.comm, my_units));
    const auto flops = static_cast<double>(sum_over_ranks(bench.comm, static_cast<std::int64_t>(my_flops)));
    warm_up();
    std::vector<double> rate, share, peaks;
    for (int round = 0; round < bench.rounds; ++round) {
        const double before = peak(bench.comm);
        const double seconds = timed(bench.comm, work);
        const double around = 0.5 * (before + peak(bench.comm));
        rate.push_back(units / seconds);
        share.push_back(flops / seconds / around);
        peaks.push_back(around);
    }
    if (bench.comm.is_root())
        fmt::print("{:<34} {:>9.0f} {}/s  {:>6.1f} GFLOP/s  {:>4.0f} % of the peak of {:.1f}\n", name, median(rate),
                   unit, median(share) * median(peaks) * 1e-9, 100 * median(share), median(peaks) * 1e-9);
}

std::int64_t length(const data::Samples& samples, std::int64_t i) {
    return samples.offsets[static_cast<std::size_t>(i) + 1] - samples.offsets[static_cast<std::size_t>(i)];
}

/// The samples of `file` among its first `count` that have labels, every size-th from `rank` on.
data::Samples share(const data::TokenFile& file, std::int64_t count, int rank, int size) {
    const auto all = file.read({0, std::min(count, file.size())});
    data::Samples mine;
    mine.offsets.push_back(0);
    std::vector<std::int64_t> order;
    for (std::int64_t i = 0; i < all.size(); ++i)
        if (influence::used_tokens(all, i) > 0) order.push_back(i);
    // Longest first, then dealt in turn: the ranks' shares weigh the same.
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return length(all, a) > length(all, b); });
    for (std::size_t j = 0; j < order.size(); ++j) {
        const auto turn = static_cast<int>(j) % (2 * size);
        if ((turn < size ? turn : 2 * size - 1 - turn) != rank) continue;
        const auto first = all.offsets[static_cast<std::size_t>(order[j])];
        const auto end = all.offsets[static_cast<std::size_t>(order[j]) + 1];
        mine.tokens.insert(mine.tokens.end(), all.tokens.begin() + first, all.tokens.begin() + end);
        mine.label_mask.insert(mine.label_mask.end(), all.label_mask.begin() + first, all.label_mask.begin() + end);
        mine.offsets.push_back(mine.offsets.back() + end - first);
    }
    return mine;
}

data::Samples first_of(const data::Samples& samples) {
    const auto end = samples.offsets[1];
    return {{samples.tokens.begin(), samples.tokens.begin() + end},
            {samples.label_mask.begin(), samples.label_mask.begin() + end},
            {0, end}};
}

void bench_embedding(const Bench& bench, const std::string& name, const config::Settings& settings) {
    const auto width = config::embedding_width(settings, bench.config);
    const auto embed =
        settings.embedding == "hidden"
            ? embedding::make_hidden_embedding(bench.decoder, settings.jvp_blocks, settings.seed, width)
            : embedding::make_jvp_embedding(
                  bench.decoder, {settings.jvp_blocks, settings.jvp_tangents, settings.jvp_rank, settings.seed}, width);
    const config::CostModel cost(bench.config, settings);
    double flops = 0;
    for (std::int64_t i = 0; i < bench.mine.size(); ++i) flops += cost.embedding(length(bench.mine, i));
    const auto pass = [&](const data::Samples& samples) { (*embed)(samples, settings.batch_tokens); };
    measure(
        bench, name, "tokens", bench.mine.offsets.back(), flops, [&] { pass(first_of(bench.mine)); },
        [&] { pass(bench.mine); });
}

void bench_gradient(const Bench& bench, const config::Settings& settings) {
    const model::ChosenLayers chosen(bench.config, config::chosen_layers(bench.config, settings.parameters));
    const auto shape = config::sketch_shape(settings, chosen.layers());
    const auto sketch =
        influence::make_sketch(settings.sketch, chosen.layers(), shape.width, settings.seed, bench.decoder.options());
    const config::CostModel cost(bench.config, settings);
    double flops = 0;
    for (std::int64_t i = 0; i < bench.mine.size(); ++i) {
        const auto first = bench.mine.label_mask.begin() + bench.mine.offsets[static_cast<std::size_t>(i)];
        const auto labels = std::count(first + 1, first + length(bench.mine, i), 1);
        flops += cost.gradient(influence::used_tokens(bench.mine, i), labels);
    }
    const auto pass = [&](const data::Samples& samples) {
        influence::gradient_sketches(bench.decoder, chosen, *sketch, samples, settings.batch_tokens);
    };
    measure(
        bench, "(c) gradient sketch", "tokens", bench.mine.offsets.back(), flops, [&] { pass(first_of(bench.mine)); },
        [&] { pass(bench.mine); });
}

void bench_propagate_and_select(const Bench& bench) {
    constexpr std::int64_t landmarks = 1024, columns = 64, samples = 8192;
    const auto width = 2 * bench.config.hidden;
    const auto features = [&](std::int64_t n) {
        return propagation::Features{at::randn({n, width}), at::randint(56, {n}, at::kLong), at::rand({n, 2})};
    };
    propagation::Solution solution;
    solution.landmarks = features(landmarks);
    solution.embedding_bandwidth = std::sqrt(2.0 * static_cast<double>(width));
    solution.length_bandwidth = 0.5;
    solution.coefficients = at::randn({landmarks, columns + 1}, at::kDouble);
    solution.intercept = at::zeros({columns + 1}, at::kDouble);
    const propagation::Propagator propagate(solution);
    const auto pool = features(samples);
    const std::vector<std::uint8_t> eligible(static_cast<std::size_t>(samples * bench.comm.size()), 1);
    const std::vector<std::int32_t> ones(eligible.size(), 1), zeros(eligible.size(), 0);
    selection::Request request;
    request.budget.samples = samples * bench.comm.size() / 20;
    request.column_task.assign(columns, 0);
    request.tasks = 1;
    request.eligible = eligible;
    request.tokens = ones;
    request.source = zeros;
    const config::Settings settings;
    const double flops = config::CostModel(bench.config, settings).propagation(landmarks, columns) * samples;
    const auto pass = [&] {
        const auto influence = propagate(pool).narrow(1, 0, columns).contiguous();
        const auto first_row = bench.comm.rank() * samples;
        const selection::Shard shard{first_row, samples, columns,
                                     [&](std::int64_t first, std::int64_t count, std::span<float> out) {
                                         std::copy_n(influence.const_data_ptr<float>() + (first - first_row) * columns,
                                                     count * columns, out.begin());
                                     }};
        selection::select(bench.comm, shard, request);
    };
    measure(bench, "(d) propagate + select", "samples", samples, flops, pass, pass);
}

}  // namespace

int main(int argc, char** argv) try {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as main.cpp
    mallopt(M_TRIM_THRESHOLD, -1);
    const comm::MpiProcess mpi(argc, argv);
    if (argc < 5) return 2;
    at::set_num_threads(1);
    const auto comm = comm::make_mpi_communicator(600.0);
    const auto config = config::read_model_config(argv[1]);
    const auto layout = model::weight_layout(config);
    comm::NodeSharedMemory memory(*comm, layout.bytes);
    if (memory.is_writer()) model::read_weights(argv[1], layout, memory.bytes());
    memory.publish();
    const model::Decoder decoder(config, layout, memory.bytes());
    const Bench bench{*comm, decoder, config,
                      share(data::TokenFile(argv[2]), std::stoll(argv[3]), comm->rank(), comm->size()),
                      std::stoi(argv[4])};
    const std::string only = argc > 5 ? argv[5] : "";
    const auto wanted = [&](const char* name) { return only.empty() || only == name; };

    config::Settings settings;
    if (comm->is_root()) fmt::print("ranks {}, threads each 1\n", comm->size());
    if (wanted("jvp")) bench_embedding(bench, "(b) jvp, rank 8", settings);
    settings.jvp_rank = 0;
    if (wanted("dense")) bench_embedding(bench, "(b) jvp, dense directions", settings);
    settings.embedding = "hidden";
    if (wanted("hidden")) bench_embedding(bench, "(b) hidden", settings);
    if (wanted("gradient")) bench_gradient(bench, config::Settings());
    if (wanted("propagate")) bench_propagate_and_select(bench);
    return 0;
} catch (const std::exception& error) {
    fmt::print(stderr, "bench_passes: {}\n", error.what());
    idistill::comm::MpiProcess::abort(1);
}
