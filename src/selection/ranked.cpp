// The rules that rank: round robin over the columns, top-k, and random as the control.

#include "idistill/options/option_kinds.hpp"
#include "idistill/selection/options.hpp"
#include "idistill/selection/selector.hpp"
#include "idistill/selection/settings.hpp"

namespace idistill::selection {

// Listed in members.cpp.
Member round_robin_member();
Member top_k_member();
Member random_member();

namespace {

class Ranked final : public Selector {
public:
    Ranked(const options::Values& values, Rule rule) : values_(values), rule_(rule) {}

    [[nodiscard]] Request request(const PoolFacts& pool) const override {
        auto request = request_of(values_, pool);
        request.rule = rule_;
        request.top_k_by_maximum = values_.of<TopKSettings>().by == TopKBy::max;
        return request;
    }
    [[nodiscard]] Request refinable(const PoolFacts& pool, std::int64_t /*budget*/) const override {
        return request(pool);
    }

    [[nodiscard]] Selection choose(comm::Communicator& comm, const InfluenceRows& influence, const PoolFacts& pool,
                                   const Request& request) const override {
        return select_ranked(comm, influence, pool, request);
    }

private:
    options::Values values_;
    Rule rule_;
};

template <Rule rule>
std::unique_ptr<Selector> make(const options::Values& values) {
    return std::make_unique<Ranked>(values, rule);
}

std::vector<options::Option> top_k_options() {
    return {options::choice_option(selection_option("top-k-by", "KIND", "top-k ranks by the mean or the max over tasks",
                                                    options::Decides::shortlist),
                                   &TopKSettings::by, {{"mean", TopKBy::mean}, {"max", TopKBy::max}})};
}

}  // namespace

Member round_robin_member() {
    return {.name = "round-robin", .help = "over the columns", .make = make<Rule::round_robin>};
}
Member top_k_member() {
    return {.name = "top-k", .help = "most influence over all", .make = make<Rule::top_k>, .options = top_k_options};
}
Member random_member() {
    return {.name = "random",
            .help = "the control",
            .make = make<Rule::random>,
            .against_refining = [](const options::Values& /*given*/) { return std::string("selection"); }};
}

}  // namespace idistill::selection
