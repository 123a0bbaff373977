// The influence function SelectIT (arXiv 2402.16705; docs/method.md): a model's own rating of a sample, without
// targets.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/data/rating_file.hpp"
#include "idistill/data/tokenizer_fingerprint.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/influence/selectit/score.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/model/loaded_model.hpp"
#include "idistill/model/micro_batches.hpp"
#include "idistill/model/passes.hpp"
#include "idistill/model/safetensors.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/options/run_settings.hpp"

namespace idistill::influence {

Member selectit_member();  // listed in members.cpp

namespace {

using torch::Tensor;

constexpr std::int64_t tokens_at_once = std::int64_t{1} << 20;  // of conversations that are read beside each other

/// A model that rates, and its conversations.
struct RaterFiles {
    std::string model;
    std::string ratings;
};

/// The same once the files are open; the same on every rank.
struct Rater {
    std::string directory;
    model::ModelConfig config;
    data::RatingFile file;
    std::vector<data::RatingTokens> tokens;  ///< (N)

    [[nodiscard]] double parameters() const { return model::weight_bytes(config) / model::fp32_bytes; }
    [[nodiscard]] bool can_rate(std::int64_t row) const {
        const auto& own = tokens[static_cast<std::size_t>(row)];
        return own.all > 0 && own.longest < config.max_positions;  // its answer is a token more
    }
};

struct SelectItSettings {
    std::string ratings;             ///< of --model
    std::vector<RaterFiles> raters;  ///< beside it
    std::shared_ptr<const std::vector<Rater>> opened;
};

std::vector<RaterFiles> all_raters(const options::Values& values) {
    const auto& settings = values.of<SelectItSettings>();
    std::vector<RaterFiles> all{{values.of<options::InputSettings>().model, settings.ratings}};
    all.insert(all.end(), settings.raters.begin(), settings.raters.end());
    return all;
}

class SelectIt final : public Influence {
public:
    explicit SelectIt(const options::Values& values)
        : opened_(values.of<SelectItSettings>().opened),
          batch_tokens_(values.of<options::RunSettings>().batch_tokens),
          place_(model::place_of(values.of<options::RunSettings>())) {}

    void plan(model::Planner& planner, const Wanted& /*wanted*/) override {
        layout_.columns = 1;
        for (std::int64_t row = 0; row < planner.usable.pool_rows; ++row) {
            if (!planner.usable.is_eligible(row)) continue;
            for (const auto& rater : raters())
                longest_ = std::max<std::int64_t>(longest_, rater.tokens[static_cast<std::size_t>(row)].longest);
        }
        const auto rows = static_cast<double>(planner.usable.pool_rows), count = static_cast<double>(raters().size());
        // Lengths of the conversations and where they are, and while they are read those of the file.
        planner.plan.needs.push_back({.what = "index of the ratings", .per_rank = rows * (16.0 * count + 8.0)});
        for (std::size_t i = 1; i < raters().size(); ++i) {
            auto& need = planner.plan.needs.emplace_back(
                model::need_of_weights(planner, "weights of " + raters()[i].directory, ", beside them",
                                       model::weight_bytes(raters()[i].config)));
            need.remedy = "fewer --rater";
        }
        for (const auto& rater : raters()) {
            planner.plan.notes.push_back(fmt::format("rated by {} with {} prompts, from 1 to {}", rater.directory,
                                                     rater.file.prompts(), rater.file.rating_tokens().size()));
            planner.plan.decisions.add(rater.file.prompts());
        }
        planner.plan.decisions.add(longest_);
    }
    [[nodiscard]] const Layout& layout() const override { return layout_; }

    [[nodiscard]] double flops(const data::CorpusIndex& /*pool*/, std::int64_t row) const override {
        double flops = 0.0;
        for (const auto& rater : raters()) {
            const auto prompts = static_cast<double>(rater.file.prompts());
            const double each = rater.tokens[static_cast<std::size_t>(row)].all / prompts;
            flops += prompts * model::PassCost(rater.config).states(each, rater.config.blocks, 0, 0);
        }
        return flops;
    }
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& /*largest*/) const override {
        plan::PassBytes most;
        for (const auto& rater : raters()) {
            const auto tokens = std::max(batch_tokens_, longest_);
            const auto read = std::max(tokens_at_once, longest_ * rater.file.prompts());
            most = plan::larger(most, {model::state_activation_bytes(rater.config, 0, tokens),
                                       model::fp32_bytes * static_cast<double>(2 * read)});
        }
        return most;
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        return 8.0 * static_cast<double>(largest.rows) * static_cast<double>(raters().size() + 1);
    }

    void load(comm::Communicator& comm, const model::Decoder& decoder, const data::Corpus& /*pool*/,
              const data::Corpus& /*targets*/) override {
        decoders_ = {&decoder};
        for (std::size_t i = 1; i < raters().size(); ++i) {
            const auto& loaded =
                models_.emplace_back(model::load_model(comm, raters()[i].directory, raters()[i].config, place_,
                                                       fmt::format("--rater {}", raters()[i].directory)));
            decoders_.push_back(loaded.decoder.get());
        }
    }
    void identify(nlohmann::json& identity) const override {
        for (std::size_t i = 0; i < raters().size(); ++i) {
            const auto name = fmt::format("rater {}", i + 1);
            identity[name + " conversations"] = raters()[i].file.content_sha256();
            if (i == 0) continue;  // the run's own model
            identity[name + " weights"] = models_[i - 1].sha256;
            identity[name + " geometry"] = model::geometry(raters()[i].config);
        }
    }

    std::unique_ptr<Columns> columns(const work::Work& /*work*/, const data::Corpus& /*pool*/,
                                     const data::Corpus& /*targets*/) override {
        auto columns = std::make_unique<Columns>();
        columns->task = {0};
        return columns;
    }

    [[nodiscard]] Rows rows(const data::SampleSet& samples, const Columns& /*columns*/) const override {
        const auto count = samples.rows().size();
        std::vector<std::vector<double>> sentences(count);  // by rater
        std::vector<double> parameters;
        for (std::size_t i = 0; i < raters().size(); ++i) {
            parameters.push_back(raters()[i].parameters());
            std::size_t place = 0;
            for (const double score : sentence_scores(raters()[i], *decoders_[i], samples.rows()))
                sentences[place++].push_back(score);
        }
        auto scores = at::empty({static_cast<std::int64_t>(count), 1}, at::TensorOptions().dtype(torch::kFloat32));
        for (std::size_t place = 0; place < count; ++place)
            scores.mutable_data_ptr<float>()[place] = static_cast<float>(model_score(sentences[place], parameters));
        return {{}, scores};
    }

    void write(io::ResultWriter& writer, const Columns& /*columns*/) const override {
        std::string conversations;
        for (const auto& rater : raters())
            conversations += (conversations.empty() ? "" : " ") + rater.file.content_sha256();
        writer.attribute("ratings_sha256", conversations);
    }

private:
    [[nodiscard]] const std::vector<Rater>& raters() const { return *opened_; }

    [[nodiscard]] std::vector<double> sentence_scores(const Rater& rater, const model::Decoder& decoder,
                                                      std::span<const std::int64_t> rows) const {
        std::vector<double> scores;
        for (std::size_t first = 0; first < rows.size();) {
            std::size_t end = first;
            std::int64_t tokens = 0;
            do tokens += rater.tokens[static_cast<std::size_t>(rows[end++])].all;
            while (end < rows.size() && tokens < tokens_at_once);
            add_scores(rater, decoder, rater.file.read(rows.subspan(first, end - first), decoder.config().vocabulary),
                       scores);
            first = end;
        }
        return scores;
    }

    /// Of whole samples: the model passes over their conversations, in micro-batches.
    void add_scores(const Rater& rater, const model::Decoder& decoder, const data::Samples& conversations,
                    std::vector<double>& scores) const {
        std::vector<std::int32_t> lengths;
        for (std::size_t i = 0; i + 1 < conversations.offsets.size(); ++i)
            lengths.push_back(static_cast<std::int32_t>(conversations.offsets[i + 1] - conversations.offsets[i]));
        const auto& ratings = rater.file.rating_tokens();
        const auto head =
            decoder.head()
                .index_select(0,
                              at::tensor(ratings, at::TensorOptions().dtype(torch::kInt32)).to(decoder.head().device()))
                .to(torch::kFloat64)
                .t();
        std::vector<double> of_tokens(lengths.size());
        model::for_each_micro_batch(
            data::pack_micro_batches(lengths, batch_tokens_), [&](const std::vector<std::int64_t>& members) {
                std::vector<std::int64_t> whole;
                for (const auto i : members) whole.push_back(lengths[static_cast<std::size_t>(i)]);
                const auto batch = model::pack(decoder, conversations, members, whole);
                const auto hidden = model::take_rows(model::hidden_states(decoder, batch, decoder.config().blocks),
                                                     model::last_rows(batch));
                const auto logits = hidden.to(torch::kFloat64).matmul(head).cpu().contiguous();  // (conversations x K)
                for (std::size_t i = 0; i < members.size(); ++i)
                    of_tokens[static_cast<std::size_t>(members[i])] = token_score(
                        {logits.const_data_ptr<double>() + static_cast<std::int64_t>(i) * std::ssize(ratings),
                         ratings.size()});
            });
        const auto prompts = static_cast<std::size_t>(rater.file.prompts());
        for (std::size_t first = 0; first < of_tokens.size(); first += prompts)
            scores.push_back(sentence_score(std::span(of_tokens).subspan(first, prompts)));
    }

    std::shared_ptr<const std::vector<Rater>> opened_;
    std::int64_t batch_tokens_;
    model::Place place_;
    std::int64_t longest_ = 0;  ///< tokens of a conversation
    Layout layout_;
    std::vector<model::LoadedModel> models_;  ///< beside the run's own
    std::vector<const model::Decoder*> decoders_;
};

void read_raters(SelectItSettings& settings, const options::Given& given) {
    settings.raters.clear();
    for (const auto& text : given.values) {
        const auto [model, ratings] = options::named(given, text, "DIR=FILE");
        for (const auto& other : settings.raters)
            if (other.model == model)
                options::refuse(given, "every model once", in_quotes(model) + " twice", "Keep one of the two.");
        settings.raters.push_back({model, ratings});
    }
}

std::vector<options::Option> selectit_options() {
    auto raters = options::own_option<SelectItSettings>(
        {.name = "rater",
         .group = option_group,
         .value_name = "DIR=FILE",
         .help = "of selectit: another model that rates, and its conversations; scores are their mean, weighted by "
                 "parameters",
         .list = true,
         .decides = options::Decides::nothing},
        read_raters, [](const SelectItSettings& settings) {
            auto list = nlohmann::json::array();
            for (const auto& [model, ratings] : settings.raters) list.push_back(model + "=" + ratings);
            return list.empty() ? nlohmann::json() : list;
        });
    raters.reads = [](const options::Values& values) {
        std::vector<options::InputFile> files;
        for (const auto& [model, ratings] : values.of<SelectItSettings>().raters)
            files.insert(files.end(), {{"--rater", model}, {"--rater", ratings}});
        return files;
    };
    return {
        options::text_option({.name = "ratings",
                              .group = option_group,
                              .value_name = "FILE",
                              .help = "of selectit: conversations in which --model rates the pool, from jobs/rate.py",
                              .decides = options::Decides::nothing,
                              .reads = options::names_file("ratings", &SelectItSettings::ratings)},
                             &SelectItSettings::ratings),
        std::move(raters)};
}

void look(options::Values& values) {
    if (values.of<SelectItSettings>().ratings.empty())
        options::refuse({options::command_line, "--ratings", {}}, "FILE, with influence = selectit", "nothing",
                        "Write one with jobs/rate.py from the files of the pool and this model, and give it here.");
}

/// Collective. Rank 0 says which conversations another tokenizer wrote.
void warn_of_other_tokenizer(comm::Communicator& comm, const Rater& rater) {
    if (!comm.is_root()) return;
    const auto expected = data::tokenizer_fingerprint(rater.directory).sha256;
    if (!expected.empty() && rater.file.tokenizer_sha256() != expected)
        say(comm, fmt::format("warning: {} was not written with the tokenizer in {}: write it again with jobs/rate.py "
                              "--model {}, unless the two map the same tokens",
                              rater.file.path(), rater.directory, rater.directory));
}

std::vector<plan::Quarantined> look_at(options::Values& values, comm::Communicator& comm, const data::Corpus& pool) {
    std::vector<std::uint8_t> wanted;
    for (const auto labels : pool.index().labels) wanted.push_back(labels > 0 ? 1 : 0);
    auto raters = std::make_shared<std::vector<Rater>>();
    for (const auto& [directory, path] : all_raters(values)) {
        auto [config, notes] = model::check_model(directory);
        auto& rater = raters->emplace_back(Rater{directory, std::move(config), data::RatingFile(path), {}});
        if (raters->size() > 1)
            for (const auto& note : notes) say(comm, "warning: " + note);
        warn_of_other_tokenizer(comm, rater);
        rater.file.match(comm, pool, wanted);
        rater.tokens = rater.file.lengths(pool.size());
        for (const auto token : rater.file.rating_tokens())
            if (token < 0 || token >= rater.config.vocabulary)
                throw Error(
                    ExitCode::bad_input,
                    {path, "/rating_token",
                     fmt::format("token ids 0..{} (the rating model's vocabulary)", rater.config.vocabulary - 1),
                     std::to_string(token), "Write the file again with jobs/rate.py and this model."});
    }
    std::vector<plan::Quarantined> too_long;
    for (std::int64_t row = 0; row < pool.size(); ++row)
        if (wanted[static_cast<std::size_t>(row)] != 0 &&
            !std::ranges::all_of(*raters, [row](const Rater& rater) { return rater.can_rate(row); }))
            too_long.push_back({row, plan::QuarantineReason::too_long_to_rate});
    values.of<SelectItSettings>().opened = std::move(raters);
    return too_long;
}

}  // namespace

Member selectit_member() {
    return {.name = "selectit",
            .help = "how the model itself rates a sample; takes no target",
            .make = [](const options::Values& values) -> std::unique_ptr<Influence> {
                return std::make_unique<SelectIt>(values);
            },
            .options = selectit_options,
            .without_target = TargetSamples::none,
            .look_at_files = look,
            .look_at_pool = look_at,
            .own_task = "quality"};
}

}  // namespace idistill::influence
