// The influence function DELIFT (SE): the cosine of sentence embeddings (NN-CIFT, arXiv 2502.09969, section 3).

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "idistill/base/error.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/data/embedding_file.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/options/run_settings.hpp"

namespace idistill::influence {

Member delift_se_member();  // listed in members.cpp

namespace {

using torch::Tensor;

constexpr std::int64_t rows_at_once = 4096;  // of embeddings that are held beside each other

struct DeliftSeSettings {
    std::string file;
    std::int64_t width = 0;  ///< e, of the file
};

/// What the columns stand for, (C x e): unit embeddings of target samples, or a task's mean of them.
struct EmbeddedColumns final : Columns {
    Tensor directions;
};

/// (n x e) of length 1; NaN in rows that have no direction.
Tensor directions_of(const Tensor& rows) {
    const auto norm = rows.to(torch::kFloat64).norm(2, 1, true);
    const auto usable = at::logical_and(at::isfinite(norm), norm.gt(0));
    return at::where(usable, rows / norm, at::full({}, std::numeric_limits<double>::quiet_NaN(), norm.options()))
        .to(torch::kFloat32);
}

class DeliftSe final : public Influence {
public:
    explicit DeliftSe(const options::Values& values)
        : settings_(values.of<DeliftSeSettings>()),
          by_task_(values.of<options::InputSettings>().columns == options::ColumnKind::tasks) {}

    void plan(model::Planner& planner, const Wanted& /*wanted*/) override {
        eligible_ = planner.usable.eligible;
        targets_ = planner.usable.target_rows;
        task_ = planner.usable.target_task;
        task_names_ = planner.usable.task_names;
        layout_.columns = by_task_ ? planner.usable.tasks : std::ssize(targets_);
        const auto targets = static_cast<double>(targets_.size());
        planner.plan.needs.push_back({.what = "sentence embeddings of the targets",
                                      .per_rank = 3.0 * model::fp32_bytes * width() * targets,
                                      .remedy = "fewer target samples"});
        planner.plan.needs.push_back(
            {.what = "rows of " + settings_.file,
             .per_rank = 9.0 * static_cast<double>(planner.usable.pool_rows + planner.targets.size())});
    }
    [[nodiscard]] bool reads_weights() const override { return false; }
    [[nodiscard]] const Layout& layout() const override { return layout_; }
    [[nodiscard]] double flops(const data::CorpusIndex& /*pool*/, std::int64_t /*row*/) const override {
        return 2.0 * width() * static_cast<double>(layout_.columns);
    }
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        const auto rows = static_cast<double>(std::min(largest.rows, rows_at_once));
        return {.fp32 =
                    model::fp32_bytes * rows * (5.0 * width() + static_cast<double>(layout_.columns))};  // once in fp64
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        return model::fp32_bytes * static_cast<double>(2 * largest.rows * layout_.columns);
    }

    void load(comm::Communicator& comm, const model::Decoder& /*decoder*/, const data::Corpus& pool,
              const data::Corpus& targets) override {
        of_pool_.emplace(settings_.file).match(comm, pool, eligible_);
        sha256_ = of_pool_->sha256(comm);
        std::vector<std::uint8_t> wanted(static_cast<std::size_t>(targets.size()), 0);
        for (const auto row : targets_) wanted[static_cast<std::size_t>(row)] = 1;
        of_targets_.emplace(settings_.file).match(comm, targets, wanted);
    }
    void identify(nlohmann::json& identity) const override { identity["sentence embedding sha256"] = sha256_; }

    std::unique_ptr<Columns> columns(const work::Work& work, const data::Corpus& /*pool*/,
                                     const data::Corpus& /*targets*/) override {
        auto columns = std::make_unique<EmbeddedColumns>();
        const auto rows = read(*of_targets_, targets_);
        const auto usable = at::isfinite(rows).all(1);
        for (std::int64_t place = 0; place < rows.size(0); ++place)
            (usable[place].item<bool>() ? columns->kept : columns->dropped).push_back(place);
        if (!columns->dropped.empty())
            say(work.comm, fmt::format("warning: {} target samples left out: their sentence embedding is zero or not "
                                       "finite",
                                       columns->dropped.size()));
        std::vector<std::int64_t> task;  // of the targets that are left
        for (const auto place : columns->kept) task.push_back(task_[static_cast<std::size_t>(place)]);
        check_tasks(task);
        const auto whole = at::TensorOptions().dtype(torch::kInt64);
        columns->directions = rows.index_select(0, at::tensor(columns->kept, whole));
        if (by_task_) {
            const auto tasks = std::ssize(task_names_);
            const auto of_task = at::tensor(task, whole);
            const auto sums = at::zeros({tasks, rows.size(1)}, rows.options().dtype(torch::kFloat64))
                                  .index_add_(0, of_task, columns->directions.to(torch::kFloat64));
            columns->directions = (sums / at::bincount(of_task, {}, tasks).unsqueeze(1)).to(torch::kFloat32);
            task.resize(task_names_.size());
            std::iota(task.begin(), task.end(), std::int64_t{0});
        }
        columns->task.assign(task.begin(), task.end());
        return columns;
    }

    [[nodiscard]] Rows rows(const data::SampleSet& samples, const Columns& prepared) const override {
        const auto& directions = static_cast<const EmbeddedColumns&>(prepared).directions;
        const std::span all(samples.rows());
        std::vector<Tensor> parts;
        for (std::size_t first = 0; first < all.size(); first += rows_at_once) {
            const auto count = std::min<std::size_t>(rows_at_once, all.size() - first);
            parts.push_back(read(*of_pool_, all.subspan(first, count)).matmul(directions.t()));
        }
        return {{}, parts.empty() ? at::empty({0, prepared.count()}, directions.options()) : at::cat(parts)};
    }

    void write(io::ResultWriter& writer, const Columns& /*columns*/) const override {
        writer.attribute("sentence_embedding_sha256", sha256_);
    }

private:
    [[nodiscard]] double width() const { return static_cast<double>(settings_.width); }

    /// (n x e) of length 1.
    [[nodiscard]] Tensor read(const data::EmbeddingFile& file, std::span<const std::int64_t> rows) const {
        auto values = file.read(rows);
        return directions_of(at::from_blob(values.data(), {std::ssize(rows), settings_.width},
                                           at::TensorOptions().dtype(torch::kFloat32)));
    }

    void check_tasks(const std::vector<std::int64_t>& left) const {
        for (std::size_t task = 0; task < task_names_.size(); ++task)
            if (std::find(left.begin(), left.end(), static_cast<std::int64_t>(task)) == left.end())
                throw Error(ExitCode::bad_input,
                            {settings_.file, "/embedding of target " + task_names_[task],
                             "at least one row that is finite and not zero", "none",
                             "Write the file again with jobs/embed.py, or leave this target out."});
    }

    DeliftSeSettings settings_;
    std::string sha256_;  ///< of the embeddings, which are the labels
    bool by_task_;
    Layout layout_;
    std::vector<std::uint8_t> eligible_;   ///< (N)
    std::vector<std::int64_t> targets_;    ///< (M) rows of the targets' corpus
    std::vector<std::int32_t> task_;       ///< (M)
    std::vector<std::string> task_names_;  ///< (tasks)
    std::optional<data::EmbeddingFile> of_pool_, of_targets_;
};

std::vector<options::Option> delift_se_options() {
    return {options::text_option({.name = "sentence-embedding",
                                  .group = option_group,
                                  .value_name = "FILE",
                                  .help = "of delift-se: embeddings of pool and targets, from jobs/embed.py",
                                  .decides = options::Decides::nothing,
                                  .reads = options::names_file("sentence-embedding", &DeliftSeSettings::file)},
                                 &DeliftSeSettings::file)};
}

void look(options::Values& values) {
    auto& settings = values.of<DeliftSeSettings>();
    if (settings.file.empty())
        options::refuse({options::command_line, "--sentence-embedding", {}}, "FILE, with influence = delift-se",
                        "nothing",
                        "Write one with jobs/embed.py from the files of pool and targets, and give it here.");
    settings.width = data::EmbeddingFile(settings.file).width();
}

}  // namespace

Member delift_se_member() {
    return {.name = "delift-se",
            .help = "cosine of sentence embeddings",
            .make = [](const options::Values& values) -> std::unique_ptr<Influence> {
                return std::make_unique<DeliftSe>(values);
            },
            .options = delift_se_options,
            .without_target = TargetSamples::landmarks,
            .look_at_files = look};
}

}  // namespace idistill::influence
