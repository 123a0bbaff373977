// DELIFT's pairs a second: targets behind an example's kept keys and values, beside passes over whole conversations of
// both. What jobs/bench.sh runs.
//   mpirun -n RANKS bench_delift MODEL TOKENS.h5 TARGETS EXAMPLES ROUNDS
// Targets and examples (of every rank others) are spread over the file's samples that can be joined. The two take turns
// to be first; medians over rounds, and of the ratios within a round.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <functional>
#include <string>

#include "idistill/comm/mpi.hpp"
#include "idistill/data/joints.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/influence/delift/distance.hpp"
#include "idistill/model/safetensors.hpp"
#include "idistill/options/run_settings.hpp"
#include "timing.hpp"

namespace {

using namespace idistill;
using at::Tensor;
using benchmarks::median, benchmarks::timed;

const options::RunSettings run;

/// `count` of the rows, from `first` on in equal steps.
std::vector<std::int64_t> spread(const std::vector<std::int64_t>& rows, std::int64_t count, std::int64_t first) {
    std::vector<std::int64_t> some;
    for (std::int64_t i = 0; i < count; ++i)
        some.push_back(rows[static_cast<std::size_t>((first + i * std::ssize(rows) / count) % std::ssize(rows))]);
    return some;
}

/// The example before every one of the samples, without labels on it.
data::Samples behind_each(std::span<const std::int32_t> example, const data::Samples& samples) {
    data::Samples whole;
    whole.offsets.push_back(0);
    for (std::size_t i = 0; i + 1 < samples.offsets.size(); ++i) {
        const auto begin = samples.offsets[i], end = samples.offsets[i + 1];
        whole.tokens.insert(whole.tokens.end(), example.begin(), example.end());
        whole.label_mask.insert(whole.label_mask.end(), example.size(), 0);
        whole.tokens.insert(whole.tokens.end(), samples.tokens.begin() + begin, samples.tokens.begin() + end);
        whole.label_mask.insert(whole.label_mask.end(), samples.label_mask.begin() + begin,
                                samples.label_mask.begin() + end);
        whole.offsets.push_back(std::ssize(whole.tokens));
    }
    return whole;
}

void bench(comm::Communicator& comm, const model::Decoder& decoder, const std::string& file, std::int64_t targets,
           std::int64_t examples, int rounds) {
    data::Corpus corpus({file}, decoder.config().vocabulary);
    corpus.scan(comm);
    corpus.read_joints(comm);
    const auto& index = corpus.index();
    std::vector<std::int64_t> usable;
    for (std::int64_t row = 0; row < corpus.size(); ++row) {
        const auto i = static_cast<std::size_t>(row);
        if (index.joint.first[i] >= 0 && index.last_label[i] > index.joint.first[i]) usable.push_back(row);
    }
    const auto target_rows = spread(usable, targets, 0);
    std::vector<std::int32_t> first;
    for (const auto row : target_rows) first.push_back(index.joint.first[static_cast<std::size_t>(row)]);
    const auto following = influence::from_token(corpus.read(target_rows), first);
    const auto example_rows = spread(usable, examples, 1 + comm.rank());
    const auto read = corpus.joints().examples(example_rows, corpus.read(example_rows));

    std::vector<Tensor> behind, whole;
    const auto kept = [&] {
        behind.clear();
        for (std::size_t i = 0; i < example_rows.size(); ++i) {
            const auto prefix = model::read_prefix(decoder, read.of(i));
            behind.push_back(influence::label_distances(decoder, &prefix, following, run.batch_tokens));
        }
    };
    const auto concatenated = [&] {
        whole.clear();
        for (std::size_t i = 0; i < example_rows.size(); ++i)
            whole.push_back(
                influence::label_distances(decoder, nullptr, behind_each(read.of(i), following), run.batch_tokens));
    };
    const double pairs = static_cast<double>(targets * examples * comm.size());
    std::vector<double> rate, whole_rate, ratio;
    for (int round = 0; round < rounds; ++round) {
        double seconds = 0.0, whole_seconds = 0.0;
        for (const bool of_kept : {round % 2 == 0, round % 2 != 0})
            (of_kept ? seconds : whole_seconds) = timed(comm, of_kept ? std::function<void()>(kept) : concatenated);
        rate.push_back(pairs / seconds);
        whole_rate.push_back(pairs / whole_seconds);
        ratio.push_back(whole_seconds / seconds);
    }
    const double differ = (at::stack(behind) - at::stack(whole)).abs().max().item<double>();
    if (comm.is_root())
        fmt::print(
            "(i) delift, {} targets of {:.0f} tokens behind examples of {:.0f}: {:.2f} pairs/s on {} ranks, of whole "
            "conversations {:.2f} pairs/s: {:.2f} times as fast; distances differ by {:.1e} at most\n",
            targets, static_cast<double>(following.offsets.back()) / static_cast<double>(targets),
            static_cast<double>(read.offsets.back()) / static_cast<double>(examples), median(rate), comm.size(),
            median(whole_rate), median(ratio), differ);
}

}  // namespace

int main(int argc, char** argv) try {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as main.cpp
    mallopt(M_TRIM_THRESHOLD, -1);
    const comm::MpiProcess mpi(argc, argv);
    if (argc != 6) return 2;
    at::set_num_threads(1);
    const auto comm = comm::make_mpi_communicator(600.0);
    const auto config = model::check_model(argv[1]).config;
    const auto layout = model::weight_layout(config);
    comm::NodeSharedMemory memory(*comm, layout.bytes);
    if (memory.is_writer()) model::read_weights(argv[1], layout, memory.bytes());
    memory.publish();
    bench(*comm, model::Decoder(config, layout, memory.bytes()), argv[2], std::stoll(argv[3]), std::stoll(argv[4]),
          std::stoi(argv[5]));
    return 0;
} catch (const std::exception& error) {
    fmt::print(stderr, "bench_delift: {}\n", error.what());
    idistill::comm::MpiProcess::abort(1);
}
