#include "bench_generated.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <optional>
#include <utility>
#include <vector>

#include "idistill/base/philox.hpp"
#include "idistill/propagation/influence_network.hpp"
#include "idistill/selection/weighted.hpp"
#include "timing.hpp"

namespace idistill::benchmarks {
namespace {

/// This rank's rows: an influence on every column that is partly the row's own (cosines of a few per cent); p is their
/// mean, and curvature takes about a sixth of it away.
selection::WeightedProblem generated_problem(const comm::Communicator& comm, std::int64_t rows, std::int64_t columns) {
    selection::WeightedProblem problem;
    problem.pool_rows = rows;
    problem.block_rows = selection::weight_block_rows(rows);
    problem.curvature.assign(static_cast<std::size_t>(columns), 0.1);
    const auto mine = selection::blocked_shard(rows, problem.block_rows, comm.rank(), comm.size());
    problem.row.reserve(static_cast<std::size_t>(mine.count));
    problem.influence.reserve(static_cast<std::size_t>(mine.count));
    problem.factor.reserve(static_cast<std::size_t>(mine.count * columns));
    const Philox random(43, "bench", "influence");
    const auto uniform = [](std::uint32_t word) { return static_cast<float>(word) * 0x1p-32F - 0.5F; };
    for (auto row = mine.first; row < mine.first + mine.count; ++row) {
        double sum = 0.0;
        float common = 0.0F;
        for (std::int64_t column = 0; column < columns; column += 4) {
            const auto words = random.words(static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(column));
            if (column == 0) common = 0.05F + 0.2F * uniform(words[0] * 2654435761U);
            for (std::int64_t i = 0; i < std::min<std::int64_t>(4, columns - column); ++i) {
                problem.factor.push_back(common + 0.1F * uniform(words[static_cast<std::size_t>(i)]));
                sum += static_cast<double>(problem.factor.back());
            }
        }
        problem.row.push_back(row);
        problem.influence.push_back(sum / static_cast<double>(columns));
    }
    return problem;
}

/// No weight above three times the mean, and at most 20 % and 30 % of all weight for two sources of a third each.
void limit(selection::WeightedProblem& problem, std::int64_t count) {
    const auto total = static_cast<double>(problem.pool_rows);
    problem.largest = 3.0 * total / static_cast<double>(count);
    problem.group_most = {0.2 * total, 0.3 * total};
    for (const auto row : problem.row) problem.group.push_back(static_cast<std::int32_t>(row % 3 - 1));
}

}  // namespace

void bench_weights(comm::Communicator& comm, std::int64_t rows, std::int64_t columns, const std::string& variant) {
    const auto count = std::max<std::int64_t>(1, rows / 20);
    auto problem = generated_problem(comm, rows, columns);
    if (variant == "limited") limit(problem, count);
    selection::WeightReport report;
    const selection::WeightedTarget target{.count = count, .lambda = {}};
    const auto learning_rate = variant == "auto" ? std::nullopt : std::optional(1.0);
    const double seconds = timed(
        comm, [&] { report = selection::solve_second_order(comm, std::move(problem), target, learning_rate).report; });
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto kilobytes = sum_over_ranks(comm, usage.ru_maxrss);
    if (comm.is_root())
        fmt::print(
            "(g) weights of {} rows, rank {}: {:.1f} s, {:.2f} GB on {} ranks; {} selected, {} before the cut, "
            "{} Newton steps, gap {:.1e} of the objective; {} at the largest weight, {} sources at their share; "
            "learning rate {:.3g}\n",
            rows, columns, seconds, static_cast<double>(kilobytes) * 1024e-9, comm.size(), report.support,
            report.reachable, report.iterations, report.gap / std::abs(report.objective), report.largest,
            report.full.size(), report.learning_rate);
}

void bench_network(comm::Communicator& comm, std::int64_t rows, std::int64_t columns, bool symmetric) {
    const propagation::NetworkShape shape{.embedding = 1024, .symmetric = symmetric};
    const propagation::NetworkScaling plain{.gain = {1.0}, .offset = {0.0}};
    const propagation::InfluenceNetwork network(shape, 0.03 * at::randn({shape.parameters()}), plain);
    constexpr std::int64_t block = 512;  // rows at a time, as a unit has them
    const auto embedding = at::randn({block, shape.embedding});
    const auto right = network.right(at::randn({columns, shape.embedding}));
    const auto left = network.left(embedding);
    const auto blocks = std::max<std::int64_t>(1, rows / block);
    double sum = 0.0;
    std::vector<double> halves, pairs, own;  // own: of the processor, whoever else uses it
    for (int round = 0; round < 5; ++round) {
        halves.push_back(timed(comm, [&] { sum += network.left(embedding)[0][0].item<double>(); }));
        const auto start = std::clock();
        pairs.push_back(timed(comm, [&] {
            for (std::int64_t i = 0; i < blocks; ++i) sum += network.scores(left, right)[0][0].item<double>();
        }));
        own.push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
    }
    const auto count = static_cast<double>(blocks * block * columns);
    if (comm.is_root())
        fmt::print(
            "(i) network {} -> {} -> 1{}: {:.3g} pairs/s a core on {} ranks, {:.3g} a second of its own time, after "
            "{:.3g} halves/s ({:.3g})\n",
            shape.inputs() + 1, shape.width, symmetric ? ", symmetric" : "", count / median(pairs), comm.size(),
            count / median(own), static_cast<double>(block) / median(halves), sum);
}

}  // namespace idistill::benchmarks
